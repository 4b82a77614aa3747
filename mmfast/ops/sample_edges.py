"""Weighted sampling of edges without replacement, as sequential draws proportional to the weight would give.

Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: give edge e the key -log(u_e) / weight_e
and keep the smallest keys. FREEDOM draws the edges of each epoch this way.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register
from mmfast.ops._philox import philox, uniform


def sample_edges(weights: Tensor, num_kept: int, seed: int, stream: int = 0) -> Tensor:
    """Return the ids of `num_kept` edges drawn without replacement in proportion to their weights, int64, ascending.

    weights: float32 or float64 [E], finite and above zero. u_e comes from Philox with the key `seed` and the counter
    (e, stream): the draw repeats on any number of threads, and each stream (say, the epoch) is a draw of its own.
    Raises MmfastError for num_kept outside 0..E and for a weight that is zero, negative, infinite or NaN.

    >>> sample_edges(torch.ones(3), 3, seed=1)
    tensor([0, 1, 2])
    """
    check_whole("sample_edges", num_kept=num_kept, seed=seed, stream=stream)
    if not 0 <= seed < 2**63 or not 0 <= stream < 2**63:
        raise MmfastError(f"sample_edges: seed={seed}, stream={stream}; give integers from 0 to 2**63 - 1")
    if not 0 <= num_kept <= weights.numel():
        raise MmfastError(
            f"sample_edges: num_kept={num_kept} but there are {weights.numel()} edges; choose 0 to {weights.numel()}"
        )
    if not native("sample_edges", weights):
        return sample_edges_reference(weights, num_kept, seed, stream)
    return call_native("sample_edges", weights, num_kept, seed, stream)


def sample_edges_reference(weights: Tensor, num_kept: int, seed: int, stream: int = 0) -> Tensor:
    """Return what `sample_edges` returns, in NumPy."""
    weight = weights.cpu().numpy().astype(np.float64)
    bad = np.flatnonzero(~((weight > 0) & np.isfinite(weight)))
    if len(bad):
        raise MmfastError(
            f"sample_edges: the weight of edge {bad[0]} is {weight[bad[0]]:g}; wanted a finite number above zero"
        )
    keys = -np.log(uniform(philox(seed, np.arange(len(weight)), stream))) / weight
    kept = np.argsort(keys, kind="stable")[:num_kept]  # stable: the lower id first among equal keys
    return torch.from_numpy(np.sort(kept)).to(weights.device)


def _fake(weights: Tensor, num_kept: int, seed: int, stream: int) -> Tensor:
    return weights.new_empty(num_kept, dtype=torch.int64)


register("sample_edges", _fake)
