"""Time and memory of the cosine transforms of feature tables, against scipy.fft and PyTorch's FFT."""

from __future__ import annotations

import itertools
import math

import torch
from _cli import parse, shape_parser, stream_facts
from _common import emit, measure, shapes

from mmfast.device import keep_freed_memory
from mmfast.ops import dct, idct


def torch_dct(x: torch.Tensor) -> torch.Tensor:
    """DCT-II along the last axis by Makhoul's way round PyTorch's real FFT."""
    size = x.shape[1]
    n = torch.arange(size, dtype=torch.float64, device=x.device)
    rotation = torch.exp(-0.5j * torch.pi * n / size) * math.sqrt(2 / size)
    rotation[0] *= math.sqrt(0.5)
    rotation = rotation.to(torch.complex64)
    half = torch.fft.rfft(torch.cat([x[:, ::2], x[:, 1::2].flip(1)], 1))
    turned = half * rotation[: half.shape[1]]
    mirrored = -turned[:, 1 : (size + 1) // 2].imag.flip(1)
    return torch.cat([turned.real, mirrored], 1)


def others_of(x, axes):
    """The same transform by PyTorch, and on the CPU by scipy with one worker per thread of ours."""
    ways = {"torch FFT": lambda: torch_dct(x) if axes == 1 else torch_dct(torch_dct(x).T.contiguous()).T.contiguous()}
    if x.is_cuda:
        return ways
    import scipy.fft

    array, workers = x.numpy(), torch.get_num_threads()
    which = tuple(range(-axes, 0))
    name = f"scipy.fft.dctn ({workers} workers)"
    return {name: lambda: scipy.fft.dctn(array, axes=which, norm="ortho", workers=workers)} | ways


def case(name, rows, width, axes, facts):
    """Measure both directions at one size."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).to(facts["device"])
    facts = (
        facts
        | {
            "least_bytes": 2 * axes * x.nbytes,  # each pass reads and writes the table once
            "least_flops": sum(int(2.5 * x.numel() * math.log2(n)) for n in [width, rows][:axes]),
        }
    )
    label = f"{name} {rows} x {width}, {axes}-D"
    yield measure("dct", label, "forward", lambda: dct(x, axes), others_of(x, axes), **facts)
    yield measure("dct", label, "inverse", lambda: idct(x, axes), {}, **facts)


def main():
    """Measure tables of the items of the named shapes by the widths given."""
    parser = shape_parser(__doc__, ["baby", "elec"], repeat=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 4096])
    options = parse(parser)
    keep_freed_memory()  # else the pages of a fresh gigabyte cost as much as a transform, and unevenly
    facts = stream_facts(options)
    for name, width, axes in itertools.product(options.shapes, options.widths, (1, 2)):
        for result in case(name, shapes[name].num_items, width, axes, facts):
            emit(result, options.json)


if __name__ == "__main__":
    main()
