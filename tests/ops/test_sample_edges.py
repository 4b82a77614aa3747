"""Weighted sampling without replacement: exact distribution on a tiny case, the reference's numbers on large ones."""

import itertools

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import _backend
from mmfast.ops.sample_edges import sample_edges, sample_edges_reference

TINY = [0.1, 0.4, 1.0, 2.0, 3.0]


def random_weights(size, dtype=torch.float64):
    return torch.rand(size, dtype=dtype, generator=torch.Generator().manual_seed(size)) + 0.01


def set_probabilities(weights, num_kept):
    """Probability of every subset under sequential draws proportional to the weight, by enumeration."""
    chance = {}
    for order in itertools.permutations(range(len(weights)), num_kept):
        left, product = sum(weights), 1.0
        for e in order:
            product *= weights[e] / left
            left -= weights[e]
        chance[tuple(sorted(order))] = chance.get(tuple(sorted(order)), 0.0) + product
    return chance


@pytest.mark.parametrize("num_kept", [1, 2, 3])
def test_subsets_occur_as_in_sequential_draws(num_kept):
    chance = set_probabilities(TINY, num_kept)
    repeats = 20_000
    counts = dict.fromkeys(chance, 0)
    weights = torch.tensor(TINY, dtype=torch.float64)
    for stream in range(repeats):
        counts[tuple(sample_edges(weights, num_kept, seed=42, stream=stream).tolist())] += 1
    chi_square = sum((counts[s] - repeats * p) ** 2 / (repeats * p) for s, p in chance.items())
    freedom = len(chance) - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)
    for e in range(len(TINY)):  # first-order inclusion
        p = sum(q for s, q in chance.items() if e in s)
        share = sum(c for s, c in counts.items() if e in s) / repeats
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / repeats) + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0, 1, 2, 101, 32_769, 200_003])
def test_same_edges_as_the_reference(size, dtype):
    weights = random_weights(size, dtype)
    for num_kept in sorted({0, min(1, size), size // 3, max(size - 1, 0), size}):
        kept = sample_edges(weights, num_kept, seed=size, stream=num_kept)
        assert kept.dtype == torch.int64 and kept.numel() == num_kept
        assert bool((kept.diff() > 0).all())
        assert torch.equal(kept, sample_edges_reference(weights, num_kept, seed=size, stream=num_kept))


def test_streams_and_seeds_differ_and_repeat():
    weights = random_weights(1000)
    first = sample_edges(weights, 500, seed=1, stream=0)
    assert torch.equal(first, sample_edges(weights, 500, seed=1, stream=0))
    assert not torch.equal(first, sample_edges(weights, 500, seed=1, stream=1))
    assert not torch.equal(first, sample_edges(weights, 500, seed=2, stream=0))


def test_extreme_weights_keep_their_order():
    weights = torch.tensor([1e-300, 1e300, 1e-300, 1e300], dtype=torch.float64)
    assert sample_edges(weights, 2, seed=0).tolist() == [1, 3]


def test_any_number_of_threads_and_strided_weights():
    weights = random_weights(200_000).view(-1, 2)[:, 0]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(sample_edges(weights, 30_000, seed=1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert torch.equal(results[0], sample_edges_reference(weights, 30_000, seed=1))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_weight_is_named(backend, bad):
    weights = torch.tensor([1.0, 1.0, bad, bad])
    with _backend.use_backend(backend), pytest.raises(MmfastError, match=f"the weight of edge 2 is {bad:g}; wanted a"):
        sample_edges(weights, 1, seed=0)


def test_bad_arguments():
    with pytest.raises(MmfastError, match="num_kept=4 but there are 3 edges; choose 0 to 3"):
        sample_edges(torch.ones(3), 4, seed=0)
    with pytest.raises(MmfastError, match=r"sample_edges: num_kept is 1\.0; wanted a whole number"):
        sample_edges(torch.ones(3), 1.0, seed=0)
    with pytest.raises(MmfastError, match="give integers from 0"):
        sample_edges(torch.ones(3), 1, seed=-1)
    with pytest.raises(MmfastError, match="weights is Int; wanted Float or Double"):
        sample_edges(torch.ones(3, dtype=torch.int32), 1, seed=0)
    with pytest.raises(MmfastError, match="weights has 2 dimensions; wanted 1"):
        sample_edges(torch.ones(3, 3), 1, seed=0)


def test_opcheck():
    torch.library.opcheck(torch.ops.mmfast.sample_edges, (torch.rand(9) + 0.1, 4, 1, 0))
