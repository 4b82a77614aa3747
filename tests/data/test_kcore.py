"""k-core against a brute-force fixed point, and numbering by first appearance."""

import numpy as np
import pytest

from mmfast.data.kcore import k_core, renumber
from mmfast.errors import MmfastError


def brute_force(users, items, k):
    rows = list(range(len(users)))
    while True:
        by_user = [users[r] for r in rows]
        by_item = [items[r] for r in rows]
        left = [r for r in rows if by_user.count(users[r]) >= k and by_item.count(items[r]) >= k]
        if left == rows:
            return rows
        rows = left


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_fixed_point(seed, k):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 25, 150), rng.integers(0, 20, 150)
    kept = brute_force(users.tolist(), items.tolist(), k)
    if kept:
        assert np.flatnonzero(k_core(users, items, k)).tolist() == kept
    else:
        with pytest.raises(MmfastError, match="no interaction is left"):
            k_core(users, items, k)


@pytest.mark.parametrize("k", [0, 1])
def test_no_core_keeps_all(k):
    assert k_core(np.array([0, 1]), np.array([0, 1]), k).all()


def test_a_chain_unravels_to_nothing():
    users = np.repeat(np.arange(50), 2)[1:]
    items = np.repeat(np.arange(50), 2)[:-1]
    with pytest.raises(MmfastError, match="2-core of 99 rows; choose a smaller k_core"):
        k_core(users, items, 2)


def test_numbers_follow_the_first_appearance():
    new, old = renumber(np.array([7, 3, 7, 9, 3, 0]))
    assert new.tolist() == [0, 1, 0, 2, 1, 3] and new.dtype == np.int32
    assert old.tolist() == [7, 3, 9, 0]
