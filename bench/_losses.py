"""Forward and backward of one loss against eager PyTorch: the common part of the losses' benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _cli import SIZES, parse, shape_parser
from _common import emit, leave_out, measure, stream_bandwidth
from _gemm import add_flop_limit, gemm_flops

from mmfast.ops import use_backend

EAGER_BYTES = 6 << 30
"""An alternative that holds more than this at once is left out: its gradients take as much again, twice."""


def options(description: str) -> argparse.Namespace:
    """Return the command line's choices: shapes, device, width and batch among them."""
    parser = shape_parser(description, SIZES, repeat=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    return parse(parser)


def table(chosen: argparse.Namespace, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return random numbers on the device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(chosen.device)


def index(chosen: argparse.Namespace, num_rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return random rows of a table on the device, int64."""
    return torch.randint(0, num_rows, shape, generator=torch.Generator().manual_seed(seed)).to(chosen.device)


def stepping(fn: Callable[..., torch.Tensor], tensors: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """Return a call of fn(*tensors) and its gradients in all of them."""
    leaves = [t.detach().requires_grad_() for t in tensors]

    def step() -> None:
        fn(*leaves).sum().backward()
        for leaf in leaves:
            leaf.grad = None  # else every way to the same loss would keep its own

    return step


def run(
    chosen: argparse.Namespace,
    bench: str,
    case: str,
    loss: Callable[..., torch.Tensor],
    tensors: tuple[torch.Tensor, ...],
    least_bytes: int = 0,
    least_flops: int = 0,
    other: Callable[..., torch.Tensor] | None = None,
    eager_bytes: int = 0,
) -> None:
    """Measure loss(*tensors) and its gradients in all of them, against `other` or the reference, and print the case.

    With least_flops the limit is a matrix product's rate, else the stream's. eager_bytes: what the alternative holds at
    least, where that is much.
    """
    slow = stepping(other or loss, tensors)

    def eager() -> None:
        with use_backend("reference"):
            slow()

    others = {"eager PyTorch": eager}
    if eager_bytes > EAGER_BYTES:
        leave_out(f"{bench} {case}, eager PyTorch", f"it holds {eager_bytes / 2**30:.0f} GiB at once")
        others = {}
    facts = {"device": chosen.device, "repeat": chosen.repeat, "least_bytes": least_bytes, "least_flops": least_flops}
    if not least_flops:
        facts["limit"] = stream_bandwidth(chosen.device)
    result = measure(bench, case, "forward+backward", stepping(loss, tensors), others, **facts)
    if least_flops:
        result = add_flop_limit(result, gemm_flops(device=chosen.device))
    emit(result, chosen.json)
