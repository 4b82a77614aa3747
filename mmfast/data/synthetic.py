"""Interactions of any size with popular items and busy users, drawn block by block of users in constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mmfast.data.dataset import Dataset, Interactions
from mmfast.errors import MmfastError

USERS_AT_ONCE = 1 << 16
ITEM_EXPONENT, USER_EXPONENT, FLATTENED = 0.75, 0.45, 10.0
"""Weights are (place + FLATTENED) ** -exponent: the shape of Amazon's review counts, without its few giants."""
ROUNDS = 8
"""Draws by popularity before the pairs that a busy user still misses are drawn evenly."""


def power_law_blocks(
    num_users: int, num_items: int, num_pairs: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield distinct pairs (users, items), int64, ascending, for block after block of users.

    num_pairs in all, fewer only where a user would have more than half of the items. The same arguments give the same
    pairs; memory is that of a block and of the items. Raises MmfastError where there are not four times as many pairs
    to choose from.

    Example: `pairs = sum(len(users) for users, _ in power_law_blocks(1000, 500, 8000))`
    """
    if num_users < 1 or num_items < 1 or num_pairs > num_users * num_items // 4:
        raise MmfastError(
            f"got {num_users:,} users, {num_items:,} items and {num_pairs:,} pairs; wanted a pair or fewer for every "
            "four that are possible"
        )
    popularity = np.cumsum(_weights(np.random.default_rng([seed, 0]).permutation(num_items), ITEM_EXPONENT))
    blocks = [(first, min(first + USERS_AT_ONCE, num_users)) for first in range(0, num_users, USERS_AT_ONCE)]
    whole = sum(_activity(*block, num_users).sum() for block in blocks)
    before = 0.0
    for number, (first, last) in enumerate(blocks, start=1):
        running = before + np.append(0.0, np.cumsum(_activity(first, last, num_users)))
        ends = np.rint(running / whole * num_pairs).astype(np.int64)
        counts, before = np.diff(ends).clip(max=max(1, num_items // 2)), running[-1]
        keys = _distinct(counts, popularity / popularity[-1], np.random.default_rng([seed, number]))
        yield first + keys // num_items, keys % num_items


def power_law_dataset(
    num_users: int,
    num_items: int,
    num_train: int,
    features: Mapping[str, np.ndarray] | None = None,
    held_out: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Return a Dataset of power-law pairs: about num_train in train, a share `held_out` of all in valid and in test."""
    total = round(num_train / (1 - 2 * held_out))
    blocks = list(power_law_blocks(num_users, num_items, total, seed))
    users, items = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    draw = np.random.default_rng([seed, 1 << 40]).random(len(users))
    where = {
        "test": draw < held_out,
        "valid": (draw >= held_out) & (draw < 2 * held_out),
        "train": draw >= 2 * held_out,
    }
    parts = {part: Interactions.from_pairs(users[rows], items[rows]) for part, rows in where.items()}
    return Dataset("synthetic", num_users, num_items, **parts, features=dict(features or {}))


def random_features(path: Path, rows: int, width: int, seed: int = 2) -> np.ndarray:
    """Write random features float32 [rows, width] to a `.npy` file, block by block, and return them memory-mapped."""
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    rng = np.random.default_rng(seed)
    for first in range(0, rows, 4096):
        rng.standard_normal(dtype=np.float32, out=table[first : first + 4096])
    table.flush()
    del table
    return np.load(path, mmap_mode="r")


def _activity(first: int, last: int, num_users: int) -> np.ndarray:
    """Return the weights of the users first..last-1; a stride without a common divisor lets busy ones lie anywhere."""
    stride = next(n for n in range(round(0.618 * num_users) or 1, 2 * num_users + 2) if math.gcd(n, num_users) == 1)
    return _weights(np.arange(first, last) * stride % num_users, USER_EXPONENT)


def _weights(places: np.ndarray, exponent: float) -> np.ndarray:
    return (places + FLATTENED) ** -exponent


def _distinct(counts: np.ndarray, popularity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return keys user * items + item, ascending and distinct, counts[u] of them for each user of a block."""
    num_items, keys, missing = len(popularity), np.empty(0, np.int64), counts
    for number in range(1 << 20):
        users = np.repeat(np.arange(len(counts)), missing)
        if not len(users):
            break
        draw = rng.random(len(users))
        items = np.searchsorted(popularity, draw) if number < ROUNDS else (draw * num_items).astype(np.int64)
        keys = np.unique(np.concatenate([keys, users * num_items + items.clip(max=num_items - 1)]))
        missing = counts - np.bincount(keys // num_items, minlength=len(counts))
    return keys
