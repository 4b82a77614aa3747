"""Forward and backward of one loss against eager PyTorch: the common part of the losses' benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _common import emit, measure, stream_bandwidth
from _gemm import add_flop_limit, gemm_flops

from mmfast.ops import use_backend


def options(description: str) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--items", type=int, default=63_001)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def table(chosen: argparse.Namespace, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return random numbers on the device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(chosen.device)


def run(
    chosen: argparse.Namespace,
    bench: str,
    case: str,
    loss: Callable[..., torch.Tensor],
    tensors: tuple[torch.Tensor, ...],
    least_bytes: int = 0,
    least_flops: int = 0,
    other: Callable[..., torch.Tensor] | None = None,
) -> None:
    """Measure loss(*tensors) and its gradients in all of them, against `other` or the reference, and print the case.

    With least_flops the limit is a matrix product's rate, else the stream's.
    """
    leaves = [t.clone().requires_grad_() for t in tensors]

    def step(fn: Callable[..., torch.Tensor] = loss) -> None:
        for leaf in leaves:
            leaf.grad = None
        fn(*leaves).sum().backward()

    def eager() -> None:
        with use_backend("reference"):
            step(other or loss)

    facts = {"device": chosen.device, "repeat": chosen.repeat, "least_bytes": least_bytes, "least_flops": least_flops}
    if not least_flops:
        facts["limit"] = stream_bandwidth(chosen.device)
    result = measure(bench, case, "forward+backward", step, {"eager PyTorch": eager}, **facts)
    if least_flops:
        result = add_flop_limit(result, gemm_flops(device=chosen.device))
    emit(result, chosen.json)
