"""Negatives are uniform over the exact complement, and the kernel draws the reference's numbers."""

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import _backend
from mmfast.ops.sample_negatives import sample_negatives, sample_negatives_reference


def rows(lists):
    """CSR tensors of a list of item lists."""
    ptr = torch.tensor(np.cumsum([0] + [len(items) for items in lists]), dtype=torch.int64)
    return ptr, torch.tensor([i for items in lists for i in sorted(items)], dtype=torch.int32)


def random_rows(num_users, num_items, seed=0):
    rng = np.random.default_rng(seed)
    return rows([rng.choice(num_items, rng.integers(0, num_items), replace=False) for _ in range(num_users)])


def ids(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("size", [0, 1, 7, 4099, 8209])
def test_same_numbers_as_the_reference(size):
    ptr, items = random_rows(97, 61)
    users = torch.randint(0, 97, (size,), generator=torch.Generator().manual_seed(size))
    candidates = torch.arange(0, 64, dtype=torch.int32)
    arguments = (users, ptr, items, candidates, 11, 2**33 + 5)
    drawn = sample_negatives(*arguments)
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn, sample_negatives_reference(*arguments))
    with _backend.use_backend("reference"):
        assert torch.equal(drawn, sample_negatives(*arguments))


def test_never_a_positive_and_only_candidates():
    ptr, items = random_rows(50, 40)
    users = torch.arange(50).repeat(40)
    candidates = torch.arange(1, 43, 2, dtype=torch.int32)
    positives = [set(items[ptr[u] : ptr[u + 1]].tolist()) for u in range(50)]
    drawn = sample_negatives(users, ptr, items, candidates, seed=3).tolist()
    assert all(item % 2 == 1 and item not in positives[u] for u, item in zip(users.tolist(), drawn, strict=True))


@pytest.mark.parametrize("num_positives", [0, 10, 2000 - 8])
def test_uniform_over_the_complement(num_positives):
    # 1992 of 2000: nearly every draw is refused 64 times and ends in the exact complement.
    ptr, items = rows([list(range(0, 2 * num_positives, 2))])
    candidates = torch.arange(0, 4000, 2, dtype=torch.int32)
    free = 2000 - num_positives
    size = 40 * free if free > 100 else 20_000
    drawn = sample_negatives(torch.zeros(size, dtype=torch.int64), ptr, items, candidates, seed=5)
    counts = np.bincount(drawn.numpy(), minlength=4000)[2 * num_positives :: 2]
    assert counts.sum() == size
    chi_square = ((counts - size / free) ** 2 / (size / free)).sum()
    assert abs(chi_square - (free - 1)) < 5 * np.sqrt(2 * (free - 1))


def test_every_entry_has_its_own_counter():
    ptr, items = random_rows(20, 30)
    users = torch.randint(0, 20, (100,), generator=torch.Generator().manual_seed(0))
    candidates = torch.arange(30, dtype=torch.int32)
    whole = sample_negatives(users, ptr, items, candidates, seed=9)
    parts = [sample_negatives(part, ptr, items, candidates, 9, offset=25 * n) for n, part in enumerate(users.split(25))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, sample_negatives(users, ptr, items, candidates, seed=10))


def test_any_number_of_threads_and_strided_users():
    ptr, items = random_rows(97, 61)
    users = torch.randint(0, 97, (9001, 2), generator=torch.Generator().manual_seed(2))[:, 1]
    candidates = torch.arange(64, dtype=torch.int32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(sample_negatives(users, ptr, items, candidates, seed=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_user_with_every_candidate_is_named(backend):
    ptr, items = rows([[0], [1, 2, 3], [5]])
    with (
        _backend.use_backend(backend),
        pytest.raises(MmfastError, match="user 1 has all 2 candidate items as positives"),
    ):
        sample_negatives(torch.tensor([0, 1, 2]), ptr, items, ids(1, 3), seed=0)


def test_a_single_free_candidate_is_found():
    ptr, items = rows([list(range(999))])
    drawn = sample_negatives(torch.zeros(20, dtype=torch.int64), ptr, items, torch.arange(1000, dtype=torch.int32), 1)
    assert drawn.tolist() == [999] * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": torch.tensor([3])}, "users holds ids from 3 to 3; wanted 0 to 1"),
        ({"users": ids(0)}, "users is Int; wanted Long"),
        ({"user_ptr": torch.tensor([0, 9, 1])}, "user_ptr of user 0 is 0 to 9"),
        ({"candidates": ids()}, "candidates is empty"),
        ({"user_items": torch.tensor([1])}, "user_items is Long; wanted Int"),
        ({"seed": -1}, "give integers from 0"),
    ],
)
def test_bad_arguments(change, message):
    ptr, items = rows([[0], [1]])
    arguments = {"users": torch.tensor([0]), "user_ptr": ptr, "user_items": items, "candidates": ids(1, 2), "seed": 0}
    with pytest.raises(MmfastError, match=message):
        sample_negatives(**{**arguments, **change})


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": ids(1, 3, 2)}, "candidates do not ascend; sort them and leave repeated ones out"),
        ({"candidates": ids(1, 2, 2)}, "candidates do not ascend"),
        ({"candidates": ids(-2, 5)}, "candidates holds -2; wanted item ids from 0 on"),
        ({"user_items": ids(5, 4, 0)}, "the user_items of user 1 do not ascend; sort them and leave repeated ones out"),
        ({"user_items": ids(5, 4, 4)}, "the user_items of user 1 do not ascend"),
    ],
)
def test_lists_of_no_use_are_refused(backend, change, message):
    ptr, items = rows([[5], [0, 4]])
    arguments = {"users": torch.tensor([0, 1]), "user_ptr": ptr, "user_items": items, "candidates": ids(1, 2, 3)}
    with _backend.use_backend(backend):
        assert len(sample_negatives(**arguments, seed=0)) == 2
        with pytest.raises(MmfastError, match=message):
            sample_negatives(**arguments | change, seed=0)


def test_a_long_list_that_does_not_ascend_is_refused_by_one_draw():
    ptr, items = rows([[5], [3, *range(6, 90)]])
    items[1:] = items[1:].roll(1)
    candidates = ids(*range(100))
    assert len(sample_negatives(torch.tensor([0]), ptr, items, candidates, seed=0)) == 1  # user 1 is not drawn
    with pytest.raises(MmfastError, match="the user_items of user 1 do not ascend"):
        sample_negatives(torch.tensor([1]), ptr, items, candidates, seed=0)


def test_opcheck():
    ptr, items = random_rows(5, 9)
    candidates = torch.arange(9, dtype=torch.int32)
    torch.library.opcheck(torch.ops.mmfast.sample_negatives, (torch.arange(5), ptr, items, candidates, 1, 0))
