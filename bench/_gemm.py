"""The machine's matrix-product limit, the yardstick of the scoring ops."""

from __future__ import annotations

import functools

import torch
from _common import seconds_of


@functools.cache
def gemm_flops(size: int = 2048, repeat: int = 7, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Return the operations per second of one square product by torch in `dtype`, the best of `repeat`."""
    a, b, out = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(3))
    best = min(seconds_of(lambda: torch.mm(a, b.T, out=out)) for _ in range(repeat))
    return 2 * size**3 / best


def add_flop_limit(case: dict, limit: float) -> dict:
    """Return the case with the share of the product limit that its least operations reach."""
    return {**case, "limit_fraction": case["least_flops"] / limit / case["median_s"]}
