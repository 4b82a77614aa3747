"""Distinct users, each equally likely, with uniform rows or items: the reference's numbers and the right chances."""

import itertools

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.sample_users import (
    sample_triples,
    sample_triples_reference,
    sample_user_rows,
    sample_user_rows_reference,
)


def case(num_users=97, seed=0):
    """Offsets of users with 0 to 8 rows, and the users that have one."""
    counts = np.random.default_rng(seed).integers(0, 9, num_users)
    return torch.tensor(np.cumsum([0, *counts])), torch.tensor(np.flatnonzero(counts))


def chi_square_is_likely(counts, expected):
    freedom = counts.size - 1
    return ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [(0, 3), (5, 0), (1, 1), (7, 65), (64, 9), (300, 2)], ids=str)
def test_same_numbers_as_the_reference(size):
    ptr, users = case()
    for op, reference, arguments in (
        (sample_user_rows, sample_user_rows_reference, (ptr, users)),
        (sample_triples, sample_triples_reference, (users, 61)),
    ):
        drawn = op(*arguments, *size, 11, 2**33 + 5)
        assert drawn.dtype == torch.int64 and drawn.shape[-1] == size[0] * size[1]
        assert torch.equal(drawn, reference(*arguments, *size, 11, 2**33 + 5))
        with use_backend("reference"):
            assert torch.equal(drawn, op(*arguments, *size, 11, 2**33 + 5))


def test_users_of_a_draw_are_distinct_unless_there_are_too_few():
    _, users = case()
    for entries in (1, 40, len(users)):
        drawn = sample_triples(users, 5, entries, 20, seed=3)[0].view(20, entries)
        assert all(row.unique().numel() == entries for row in drawn)
        assert torch.isin(drawn, users).all()
    drawn = sample_triples(users[:3], 5, 4, 20, seed=3)[0]
    assert set(drawn.tolist()) == set(users[:3].tolist())


def test_every_sequence_of_users_is_equally_likely():
    draws = 24_000
    users = sample_triples(torch.arange(4), 2, 3, draws, seed=5)[0].view(draws, 3)
    sequences = {p: i for i, p in enumerate(itertools.permutations(range(4), 3))}
    counts = np.bincount([sequences[tuple(row)] for row in users.tolist()], minlength=24)
    assert chi_square_is_likely(counts, draws / 24)


def test_rows_belong_to_the_users_and_are_uniform():
    ptr = torch.tensor([0, 3, 3, 4, 10])
    rows = sample_user_rows(ptr, torch.tensor([0, 3]), 2, 18_000, seed=1)
    counts = np.bincount(rows.numpy(), minlength=10)
    assert counts[3] == 0 and counts[:3].sum() == counts[4:].sum() == 18_000
    assert chi_square_is_likely(counts[:3], 6000) and chi_square_is_likely(counts[4:], 3000)


def test_items_are_uniform_and_independent():
    _, left, right = sample_triples(torch.arange(50), 6, 50, 720, seed=2)
    counts = np.bincount((left * 6 + right).numpy(), minlength=36)
    assert chi_square_is_likely(counts, 1000)


def test_draws_do_not_depend_on_how_they_are_asked_for():
    ptr, users = case()
    whole = sample_user_rows(ptr, users, 16, 30, seed=9)
    parts = [sample_user_rows(ptr, users, 16, 10, seed=9, first_draw=first) for first in (0, 10, 20)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, sample_user_rows(ptr, users, 16, 30, seed=10))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(sample_user_rows(ptr, users.repeat_interleave(2)[::2], 16, 30, seed=9))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(whole, other) for other in results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": torch.tensor([3])}, "users holds ids from 3 to 3; wanted 0 to 2"),
        ({"users": torch.tensor([0, 1])}, "user 1 has 0 rows; wanted 1"),
        ({"users": torch.tensor([0], dtype=torch.int32)}, r"users is torch.int32 \[1\]; wanted int64 \[A\]"),
        ({"users": torch.tensor([], dtype=torch.int64)}, "of 0 users; wanted 0 or more, and at least one user"),
        ({"user_ptr": torch.zeros(2, 2)}, r"user_ptr is torch.float32 \[2, 2\]; wanted int64"),
        ({"num_entries": -1}, "num_entries=-1"),
        ({"seed": -1}, "give integers from 0"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"user_ptr": torch.tensor([0, 2, 2, 5]), "users": torch.tensor([0, 2])}
    sizes = {"num_entries": 2, "num_draws": 1, "seed": 0}
    with pytest.raises(MmfastError, match=message):
        sample_user_rows(**{**arguments, **sizes, **change})


def test_a_catalogue_without_items_is_refused():
    with pytest.raises(MmfastError, match="num_items=0; wanted 1"):
        sample_triples(torch.tensor([0]), 0, 1, 1, seed=0)


def test_opcheck():
    ptr, users = case(9)
    torch.library.opcheck(torch.ops.mmfast.sample_user_rows, (ptr, users, 3, 2, 1, 0))
    torch.library.opcheck(torch.ops.mmfast.sample_triples, (users, 7, 3, 2, 1, 0))
