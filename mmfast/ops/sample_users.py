"""Batches of distinct users: each user with one of its rows, or with any two items ("universal triples" of CKD)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register
from mmfast.ops._philox import below, philox


def sample_user_rows(
    user_ptr: Tensor, users: Tensor, num_entries: int, num_draws: int, seed: int, first_draw: int = 0
) -> Tensor:
    """Return num_draws batches of num_entries distinct users, one uniform row of each, as int64 [draws * entries].

    The rows of user u are user_ptr[u] .. user_ptr[u + 1] - 1 (int64 [U + 1]). users: int64 [A], those to draw from, all
    equally likely; every one has a row. Users repeat inside a batch only where num_entries is larger than A. Draw s is
    a function of (seed, first_draw + s): batches may be drawn many at once or one by one, on any number of threads.
    Raises MmfastError for arguments that do not fit together.

    >>> sample_user_rows(torch.tensor([0, 1, 2]), torch.tensor([0, 1]), 2, 1, seed=0).sort()[0]
    tensor([0, 1])
    """
    _check("sample_user_rows", users, num_entries, num_draws, seed, first_draw)
    if user_ptr.dim() != 1 or user_ptr.dtype != torch.int64 or user_ptr.numel() < 1:
        raise MmfastError(f"sample_user_rows: user_ptr is {user_ptr.dtype} {list(user_ptr.shape)}; wanted int64 [U+1]")
    if not native("sample_user_rows", users):
        return sample_user_rows_reference(user_ptr, users, num_entries, num_draws, seed, first_draw)
    return call_native("sample_user_rows", user_ptr, users, num_entries, num_draws, seed, first_draw)


def sample_triples(
    users: Tensor, num_items: int, num_entries: int, num_draws: int, seed: int, first_draw: int = 0
) -> Tensor:
    """Return num_draws batches of num_entries triples (user, item, item), int64 [3, draws * entries].

    Users are drawn as in `sample_user_rows`; both items are uniform over 0 .. num_items - 1, independent of each other
    and of what the user has: CKD compares a student with its teachers on such triples.
    Raises MmfastError for arguments that do not fit together.

    Example: `users, left, right = sample_triples(torch.arange(num_users), num_items, 5000, 1, seed, step)`
    """
    _check("sample_triples", users, num_entries, num_draws, seed, first_draw)
    check_whole("sample_triples", num_items=num_items)
    if not 0 < num_items < 2**32 - 1:
        raise MmfastError(f"sample_triples: num_items={num_items}; wanted 1 to 2**32 - 2")
    if not native("sample_triples", users):
        return sample_triples_reference(users, num_items, num_entries, num_draws, seed, first_draw)
    return call_native("sample_triples", users, num_items, num_entries, num_draws, seed, first_draw)


def sample_user_rows_reference(
    user_ptr: Tensor, users: Tensor, num_entries: int, num_draws: int, seed: int, first_draw: int = 0
) -> Tensor:
    """Return what `sample_user_rows` returns, the same numbers, in NumPy."""
    ptr, ids = user_ptr.cpu().numpy(), users.cpu().numpy()
    place, words = _draw_users(len(ids), num_entries, num_draws, seed, first_draw)
    first = ptr[ids[place]]
    return torch.from_numpy(first + below(words[:, 1], ptr[ids[place] + 1] - first)).to(users.device)


def sample_triples_reference(
    users: Tensor, num_items: int, num_entries: int, num_draws: int, seed: int, first_draw: int = 0
) -> Tensor:
    """Return what `sample_triples` returns, the same numbers, in NumPy."""
    place, words = _draw_users(users.numel(), num_entries, num_draws, seed, first_draw)
    sides = [below(words[:, side], num_items) for side in (1, 2)]
    return torch.from_numpy(np.stack([users.cpu().numpy()[place], *sides])).to(users.device)


def _draw_users(size: int, count: int, draws: int, seed: int, first_draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places in the list of users [draws * count] and the words [draws * count, 4] of their attempts."""
    kept = [np.zeros((0, 4), np.uint64)]
    for draw in range(draws):
        attempts, words, first = 0, np.zeros((0, 4), np.uint64), np.zeros(0, np.int64)
        while len(first) < count:
            words = np.concatenate([words, philox(seed, np.arange(attempts, attempts + 2 * count), first_draw + draw)])
            attempts = len(words)
            first = np.arange(attempts)
            if count <= size:
                first = np.sort(np.unique(below(words[:, 0], size), return_index=True)[1])
        kept.append(words[first[:count]])
    chosen = np.concatenate(kept)
    return below(chosen[:, 0], size), chosen


def _check(op: str, users: Tensor, num_entries: int, num_draws: int, seed: int, first_draw: int) -> None:
    check_whole(op, num_entries=num_entries, num_draws=num_draws, seed=seed, first_draw=first_draw)
    if users.dim() != 1 or users.dtype != torch.int64:
        raise MmfastError(f"{op}: users is {users.dtype} {list(users.shape)}; wanted int64 [A]")
    if num_entries < 0 or num_draws < 0 or (users.numel() == 0 and num_entries and num_draws):
        raise MmfastError(
            f"{op}: num_entries={num_entries}, num_draws={num_draws} of {users.numel()} users; "
            "wanted 0 or more, and at least one user"
        )
    if not 0 <= seed < 2**63 or not 0 <= first_draw < 2**63:
        raise MmfastError(f"{op}: seed={seed}, first_draw={first_draw}; give integers from 0 to 2**63 - 1")


def _fake_rows(user_ptr: Tensor, users: Tensor, num_entries: int, num_draws: int, seed: int, first_draw: int) -> Tensor:
    return users.new_empty(num_entries * num_draws)


def _fake_triples(
    users: Tensor, num_items: int, num_entries: int, num_draws: int, seed: int, first_draw: int
) -> Tensor:
    return users.new_empty(3, num_entries * num_draws)


register("sample_user_rows", _fake_rows)
register("sample_triples", _fake_triples)
