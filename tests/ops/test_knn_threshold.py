"""Pairs above a threshold against the whole matrix: counts, caps, refusals, ties, many shapes."""

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import _backend
from mmfast.ops.knn_threshold import knn_above_reference, knn_count, knn_threshold
from tests.kernels import fewer

ONE_PANEL, SMALL_PANELS = 64 << 20, 1000


def table(num_items, width, dtype=torch.float64, seed=0):
    return torch.randn(num_items, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def brute_force(features, eta, cap=None, metric="cosine"):
    """Rows of (id, similarity), the best first, the lower id first among equals."""
    x = torch.nn.functional.normalize(features) if metric == "cosine" else features
    similarity, zero = x @ x.T, (x == 0).all(1)
    rows = []
    for i, line in enumerate(similarity):
        apart = zero[i] | zero if metric == "cosine" else torch.zeros(len(x), dtype=torch.bool)
        found = [(-s, j) for j, s in enumerate(line.tolist()) if s > eta and j != i and not apart[j]]
        rows.append([(j, -s) for s, j in sorted(found)][:cap])
    return rows


@pytest.mark.parametrize("metric", ["cosine", "inner"])
@pytest.mark.parametrize("cap", [None, 1, 5])
@pytest.mark.parametrize(
    ("num_items", "eta"), [(0, 0.1), (1, 0.1), (2, -2.0), (31, 0.2), (385, 0.3), (fewer(800), 2.0)]
)
def test_equals_brute_force(num_items, eta, cap, metric):
    features = table(num_items, 5)
    features[num_items // 3 : num_items // 3 + 1] = 0
    want = brute_force(features, eta, cap, metric)
    for block_bytes in (ONE_PANEL, SMALL_PANELS):
        ptr, ids, similarities = knn_threshold(features, eta, cap, metric=metric, block_bytes=block_bytes)
        assert ptr.diff().tolist() == [len(row) for row in want]
        assert ids.tolist() == [j for row in want for j, _ in row]
        assert np.allclose(similarities, [s for row in want for _, s in row], rtol=1e-12, atol=1e-12)
        counts = knn_count(features, eta, metric, block_bytes)
        assert counts.tolist() == [len(row) for row in brute_force(features, eta, None, metric)]
    with _backend.use_backend("reference"):
        got = knn_threshold(features, eta, cap, metric=metric)
    assert torch.equal(ptr, got[0]) and torch.equal(ids, got[1]) and torch.allclose(similarities, got[2])


@pytest.mark.parametrize("cap", [None, 30])
def test_ties_and_equality_with_eta(cap):
    # Exact inner products: many equal ones, and many equal to eta, which do not count.
    features = torch.randint(-1, 2, (fewer(500), 6), generator=torch.Generator().manual_seed(0)).float()
    want = brute_force(features, 2.0, cap, "inner")
    ptr, ids, _ = knn_threshold(features, 2.0, cap, metric="inner", block_bytes=100_000)
    assert ids.tolist() == [j for row in want for j, _ in row]
    assert knn_count(features, 2.0, "inner").clamp(max=cap or len(features)).sum() == ptr[-1]


def test_the_number_of_edges_is_known_before_one_is_stored():
    features = table(200, 6, torch.float32)
    edges = int(knn_count(features, 0.0).sum())
    assert len(knn_threshold(features, 0.0, max_edges=edges)[1]) == edges
    with pytest.raises(MmfastError, match=f"eta=0.0 gives {edges} edges, more than max_edges={edges - 1}; raise eta"):
        knn_threshold(features, 0.0, max_edges=edges - 1)
    with pytest.raises(MmfastError, match=r"eta=0\.0 gives 800 edges, more than max_edges=700"):
        knn_threshold(features, 0.0, cap=4, max_edges=700)
    assert len(knn_threshold(features, 0.0, cap=4, max_edges=800)[1]) == 800
    sparse = int(knn_count(features, 0.8).clamp(max=4).sum())
    assert sparse < 700 and len(knn_threshold(features, 0.8, cap=4, max_edges=700)[1]) == sparse


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_any_number_of_threads(dtype):
    features = table(fewer(1500), 40, torch.float32).to(dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((*knn_threshold(features, 0.3, block_bytes=200_000), knn_count(features, 0.3)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cap": 0}, "cap=0; choose 1 or more neighbours, or None for all"),
        ({"cap": 2.5}, "knn_threshold: cap is 2.5; wanted a whole number"),
        ({"metric": "dot"}, "metric='dot' is unknown"),
        ({"eta": float("nan")}, "knn_threshold: eta is NaN, which no similarity is above or below; choose a number"),
        ({"features": torch.ones(3, 2, device="meta")}, "number of edges depends on the rows, which a meta tensor"),
        ({"features": torch.ones(3, 2, device="meta"), "cap": 1}, "which a meta tensor does not hold"),
        ({"features": np.ones((3, 2))[:, ::-1]}, "torch cannot read in place; pass np.ascontiguousarray"),
        ({"precision": "int8"}, "knn_threshold: precision='int8' is unknown; choose one of auto, float32, bfloat16"),
        ({"precision": "int8", "cap": 1}, "knn_threshold: precision='int8' is unknown"),
        ({"features": torch.ones(3)}, r"features has shape \(3,\)"),
        ({"features": torch.full((3, 2), torch.nan)}, "row 0 of features holds NaN"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(MmfastError, match=message):
        knn_threshold(**{"features": torch.ones(3, 2), "eta": 0.5, **arguments})


def test_offsets_that_were_not_counted_are_refused():
    features = torch.ones(3, 2)
    for offsets, message in (
        ([0, 1, 3, 6], "row 0 has 2 rows above eta but ptr gives it 1 slots"),
        ([1, 2, 4, 6], "ptr runs from 1 to 6; wanted ascending offsets from 0"),
        ([0, 7, 4, 6], "wanted ascending offsets"),
    ):
        with pytest.raises(ValueError, match=message):
            torch.ops.mmfast.knn_above(features, 0.5, torch.tensor(offsets), "cosine", ONE_PANEL)


def test_opcheck():
    features = table(9, 4)
    torch.library.opcheck(torch.ops.mmfast.knn_count, (features, 0.1, "cosine", ONE_PANEL))
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), knn_count(features, 0.1).cumsum(0)])
    torch.library.opcheck(torch.ops.mmfast.knn_above, (features, 0.1, ptr, "cosine", ONE_PANEL))
    ids, similarities = torch.ops.mmfast.knn_above(features, 0.1, ptr, "cosine", ONE_PANEL)
    want = knn_above_reference(features, 0.1, ptr, "cosine")
    assert torch.equal(ids, want[0]) and torch.allclose(similarities, want[1])


@pytest.mark.parametrize("options", [{}, {"cap": 2}])
def test_compiles_to_one_graph(options):
    def search(features):
        return knn_threshold(features, 0.1, **options)

    compiled = torch.compile(search, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (9, 30):
        features = table(size, 4)
        want = search(features)
        assert len(want[1]) and all(torch.equal(a, b) for a, b in zip(compiled(features), want, strict=True))
