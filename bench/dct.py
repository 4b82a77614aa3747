"""Time and memory of the cosine transforms of feature tables, against scipy.fft and PyTorch's FFT."""

from __future__ import annotations

import itertools
import math

import torch
from _cli import SIZES, parse, shape_parser, stream_facts
from _common import emit, leave_out, measure, shapes

from mmfast.ops import dct, idct

TABLE_BYTES = 3 << 30
"""A larger table is left out: with what scipy and PyTorch make of it, it takes five times this."""


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


def torch_ways(x, axes):
    """The forward transform by PyTorch."""
    return {"torch FFT": lambda: torch_dct(x) if axes == 1 else torch_dct(torch_dct(x).T.contiguous()).T.contiguous()}


def scipy_ways(x, axes, transform):
    """The transform of scipy.fft of that name, on the CPU, with one worker per thread of ours."""
    if x.is_cuda:
        return {}
    import scipy.fft

    array, workers = x.numpy(), torch.get_num_threads()
    which = tuple(range(-axes, 0))
    way = getattr(scipy.fft, transform)
    return {f"scipy.fft.{transform} ({workers} workers)": lambda: way(array, axes=which, norm="ortho", workers=workers)}


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
    others = scipy_ways(x, axes, "dctn") | torch_ways(x, axes)
    yield measure("dct", label, "forward", lambda: dct(x, axes), others, **facts)
    # the gradient of either is the other
    yield measure("idct", label, "inverse", lambda: idct(x, axes), scipy_ways(x, axes, "idctn"), **facts)


def main():
    """Measure tables of the items of the named shapes by the widths given."""
    parser = shape_parser(__doc__, SIZES, repeat=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 4096])
    options = parse(parser)
    facts = stream_facts(options)
    for name, width, axes in itertools.product(options.shapes, options.widths, (1, 2)):
        rows = shapes[name].num_items
        if rows * width * 4 > TABLE_BYTES:
            leave_out(f"dct {name}, {axes}-D", f"{rows} x {width} and its copies are more memory than is asked for")
            continue
        for result in case(name, rows, width, axes, facts):
            emit(result, options.json)


if __name__ == "__main__":
    main()
