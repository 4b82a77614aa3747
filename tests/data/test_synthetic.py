"""Power-law interactions: exact counts, distinct pairs, the same whatever the blocks, in constant memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mmfast.data import synthetic
from mmfast.data.synthetic import power_law_blocks, power_law_dataset
from mmfast.errors import MmfastError


def all_pairs(*sizes, **options):
    users, items = (np.concatenate(parts) for parts in zip(*power_law_blocks(*sizes, **options), strict=True))
    return users, items


@pytest.mark.parametrize("sizes", [(1, 4, 1), (3, 8, 5), (500, 300, 9_000), (70_000, 1_009, 300_000), (5, 5, 0)])
def test_pairs_are_distinct_and_as_many_as_asked(sizes):
    users, items = all_pairs(*sizes)
    keys = users * sizes[1] + items
    assert len(keys) == sizes[2] and (np.diff(keys) > 0).all()
    assert not len(keys) or (
        users.min() >= 0 and users.max() < sizes[0] and items.min() >= 0 and items.max() < sizes[1]
    )


def test_items_are_popular_and_users_busy_and_lie_anywhere():
    users, items = all_pairs(2_000, 1_000, 40_000)
    popularity, activity = np.bincount(items, minlength=1_000), np.bincount(users, minlength=2_000)
    assert np.sort(popularity)[-100:].sum() > 0.25 * len(items)  # evenly they would be a tenth
    assert activity.max() > 4 * np.median(activity)
    assert abs(activity[:1_000].sum() - 20_000) < 1_000  # the busy are not all in front
    assert abs(np.argmax(popularity) - np.argsort(popularity)[-2]) > 1


def test_the_same_arguments_give_the_same_pairs_and_another_seed_others():
    first, again, other = (all_pairs(300, 200, 4_000, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_blocks_need_the_memory_of_a_block(monkeypatch):
    monkeypatch.setattr(synthetic, "USERS_AT_ONCE", 1_000)
    tracemalloc.start()
    count = sum(len(users) for users, _ in power_law_blocks(100_000, 2_000, 1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1_000_000 and peak < 4 << 20  # all pairs would take 16 MB


def test_a_dataset_has_about_the_sizes_asked_for():
    features = {"text": np.zeros((400, 3), np.float32) + 1}
    data = power_law_dataset(600, 400, 8_000, features)
    assert (data.num_users, data.num_items, data.modalities) == (600, 400, ("text",))
    assert abs(len(data.train) - 8_000) < 300 and abs(len(data.valid) - 1_000) < 150
    assert len(data.train) + len(data.valid) + len(data.test) == 10_000


def test_too_many_pairs_are_refused():
    with pytest.raises(MmfastError, match="got 10 users, 10 items and 26 pairs; wanted a pair or fewer for every four"):
        next(power_law_blocks(10, 10, 26))
