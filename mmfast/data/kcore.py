"""Iterated k-core: drop users and items with fewer than k rows until none is left to drop."""

from __future__ import annotations

import numpy as np

from mmfast.errors import MmfastError


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Return the kept rows, bool [E], of the k-core of integer codes `users`, `items` [E].

    Users and items are counted on the same snapshot of the rows, then removed together, until nothing changes.
    Raises MmfastError when no row is left.
    """
    kept = np.arange(len(users), dtype=np.int64)
    while k > 1 and kept.size:
        user, item = users[kept], items[kept]
        enough = (np.bincount(user) >= k)[user] & (np.bincount(item) >= k)[item]
        if enough.all():
            break
        kept = kept[enough]
    if not kept.size:
        raise MmfastError(f"no interaction is left after the {k}-core of {len(users)} rows; choose a smaller k_core")
    mask = np.zeros(len(users), bool)
    mask[kept] = True
    return mask


def renumber(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number codes [E] anew by first appearance: (new codes int32 [E], old code of each new one int64 [n])."""
    old, first = np.unique(codes, return_index=True)
    order = np.argsort(first, kind="stable")
    new_of_old = np.zeros(int(old[-1]) + 1 if old.size else 0, np.int32)
    new_of_old[old[order]] = np.arange(old.size, dtype=np.int32)
    return new_of_old[codes], old[order].astype(np.int64)
