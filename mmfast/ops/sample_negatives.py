"""One negative item per batch entry, uniform over the candidates that the user has no positive of."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register
from mmfast.ops._philox import below, philox

REJECTIONS = 64  # the kernel's bound: after so many refused draws the exact complement is counted


def sample_negatives(
    users: Tensor, user_ptr: Tensor, user_items: Tensor, candidates: Tensor, seed: int, offset: int = 0
) -> Tensor:
    """Return one item per entry, int64 [B]: a candidate that is not a positive of the entry's user, all equally likely.

    users: int64 [B]. The positives of user u are user_items[user_ptr[u]:user_ptr[u + 1]], int32, ascending, none twice;
    user_ptr: int64 [U + 1]. candidates: int32 [C], ascending, none twice. Entry b is drawn from Philox with the key
    `seed` and the counter `offset + b`: give every entry of a run its own counter, and the draws repeat with the seed
    on any number of threads. Raises MmfastError for candidates or positives of a user of `users` that do not ascend,
    and for a user whose positives are all the candidates.

    >>> ptr, items = torch.tensor([0, 2]), torch.tensor([0, 2], dtype=torch.int32)
    >>> sample_negatives(torch.tensor([0, 0]), ptr, items, torch.tensor([0, 1, 2], dtype=torch.int32), seed=1)
    tensor([1, 1])
    """
    check_whole("sample_negatives", seed=seed, offset=offset)
    if not 0 <= seed < 2**63 or not 0 <= offset < 2**63:
        raise MmfastError(f"sample_negatives: seed={seed}, offset={offset}; give integers from 0 to 2**63 - 1")
    if candidates.numel() == 0:
        raise MmfastError("sample_negatives: candidates is empty; give at least one item that may be drawn")
    if not native("sample_negatives", users):
        return sample_negatives_reference(users, user_ptr, user_items, candidates, seed, offset)
    return call_native("sample_negatives", users, user_ptr, user_items, candidates, seed, offset)


def sample_negatives_reference(
    users: Tensor, user_ptr: Tensor, user_items: Tensor, candidates: Tensor, seed: int, offset: int = 0
) -> Tensor:
    """Return what `sample_negatives` returns, the same numbers, in NumPy."""
    user, ptr, items, allowed = (t.cpu().numpy() for t in (users, user_ptr, user_items, candidates))
    if (np.diff(allowed) <= 0).any():
        raise MmfastError("sample_negatives: candidates do not ascend; sort them and leave repeated ones out")
    if allowed.min(initial=0) < 0:
        raise MmfastError(f"sample_negatives: candidates holds {allowed[0]}; wanted item ids from 0 on")
    for one in np.unique(user):
        if (np.diff(items[ptr[one] : ptr[one + 1]]) <= 0).any():
            raise MmfastError(
                f"sample_negatives: the user_items of user {one} do not ascend; sort them and leave repeated ones out"
            )
    width = int(max(items.max(initial=0), allowed.max(initial=0))) + 1
    pairs = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)) * width + items  # ascending, one key per positive
    drawn = np.full(len(user), -1, np.int64)
    open_entries = np.arange(len(user))
    for attempt in range(REJECTIONS):
        words = philox(seed, open_entries + offset, attempt)[:, 0]
        item = allowed[below(words, len(allowed))].astype(np.int64)
        free = ~_contains(pairs, user[open_entries] * width + item)
        drawn[open_entries[free]] = item[free]
        open_entries = open_entries[~free]
    for entry in open_entries:
        row = items[ptr[user[entry]] : ptr[user[entry] + 1]]
        drawn[entry] = _draw_exactly(int(user[entry]), row, allowed, philox(seed, entry + offset, REJECTIONS)[:, 0])
    return torch.from_numpy(drawn).to(users.device)


def _contains(ascending: np.ndarray, keys: np.ndarray) -> np.ndarray:
    at = np.searchsorted(ascending, keys)
    inside = at < len(ascending)
    inside[inside] = ascending[at[inside]] == keys[inside]
    return inside


def _draw_exactly(user: int, positives: np.ndarray, allowed: np.ndarray, word: np.ndarray) -> int:
    free = np.setdiff1d(allowed, positives, assume_unique=True)
    if not len(free):
        raise MmfastError(
            f"sample_negatives: user {user} has all {len(allowed)} candidate items as positives, so no negative "
            "exists; leave the user out or allow more items"
        )
    return int(free[below(word, len(free))[0]])


def _fake(users: Tensor, user_ptr: Tensor, user_items: Tensor, candidates: Tensor, seed: int, offset: int) -> Tensor:
    return torch.empty_like(users, memory_format=torch.contiguous_format)


register("sample_negatives", _fake)
