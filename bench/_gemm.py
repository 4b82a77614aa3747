"""The machine's matrix-product limit, the yardstick of the scoring ops."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from _common import seconds_of

LEAST_WIDTH = 64  # of rows that "auto" proposes for, as in csrc/cpu/proposals.cpp


def product_type(precision: str, width: int, device: str = "cpu") -> torch.dtype:
    """Return the type of the products by which a search of float32 rows of `width` proposes: what limits it."""
    if precision == "auto":
        units = device != "cpu" or "avx512_bf16" in Path("/proc/cpuinfo").read_text()
        precision = "bfloat16" if units and width >= LEAST_WIDTH else "float32"
    return getattr(torch, precision)


@functools.cache
def gemm_flops(size: int = 0, repeat: int = 7, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Return the operations per second of one square product by torch in `dtype`, the best of `repeat`.

    size: of its sides; 0 means 2048 on a CPU and 8192, which outlasts a launch by far, elsewhere.
    """
    size = size or (2048 if device == "cpu" else 8192)
    a, b, out = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(3))
    best = min(seconds_of(lambda: torch.mm(a, b.T, out=out)) for _ in range(repeat))
    return 2 * size**3 / best


def add_flop_limit(case: dict, limit: float) -> dict:
    """Return the case with the share of the product limit that its least operations reach."""
    return {**case, "limit_fraction": case["least_flops"] / limit / case["median_s"]}
