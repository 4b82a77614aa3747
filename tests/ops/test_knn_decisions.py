"""One number decides for a pair of rows, wherever a tile ends: repeated rows, all types, block sizes, updates."""

import pytest
import torch

from mmfast.ops import knn_graph, knn_threshold
from mmfast.ops.knn_graph import knn_update
from mmfast.ops.knn_threshold import knn_count
from tests.kernels import fewer

BLOCKS = (64 << 20, 300_000, 1000)
CASES = [  # items, distinct rows, width, k, type; some one past a tile
    (fewer(300), 20, 64, 40, torch.float64),
    (fewer(132), 30, 268, 12, torch.float32),
    (fewer(260), 25, 40, 30, torch.float16),
    (fewer(389), 7, 33, 12, torch.bfloat16),
    (fewer(400), 3, 50, 10, torch.float32),
]


def repeated(num_items, distinct, width, dtype, seed=0):
    """Rows drawn with repetition from a few, so that most similarities occur many times."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(distinct, width, dtype=torch.float64, generator=generator)
    return rows[torch.randint(distinct, (num_items,), generator=generator)].to(dtype)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def precisions(dtype):
    return ("float32",) if dtype == torch.float64 else ("float32", "bfloat16")


def all_similarities(features, metric):
    """Return [I, I], from lists that leave nothing out, after a check of these lists by themselves."""
    ids, similarities = knn_graph(features, len(features), True, metric)
    matrix = torch.empty_like(similarities).scatter_(1, ids.long(), similarities)
    assert torch.equal(matrix, matrix.T)
    group = torch.unique(features, dim=0, return_inverse=True)[1]
    assert torch.equal(matrix, matrix[:, (group[:, None] == group).int().argmax(1)])  # equal rows, equal numbers
    x = features.double()
    x = torch.nn.functional.normalize(x) if metric == "cosine" else x
    kind = torch.finfo(similarities.dtype)
    rounding = 8 * kind.eps * x.norm(dim=1)[:, None] * x.norm(dim=1) + kind.smallest_normal * kind.eps
    assert ((matrix - x @ x.T).abs() <= rounding).all()
    return matrix


def best(matrix, k, include_self):
    order = matrix.clone().fill_diagonal_(torch.inf if include_self else -torch.inf)
    ids = order.argsort(dim=1, descending=True, stable=True)[:, :k]
    return ids.int(), matrix.gather(1, ids)


@pytest.mark.parametrize("metric", ["cosine", "inner"])
@pytest.mark.parametrize(("num_items", "distinct", "width", "k", "dtype"), CASES)
def test_the_lower_id_comes_first_among_equal_rows(num_items, distinct, width, k, dtype, metric):
    features = repeated(num_items, distinct, width, dtype)
    matrix = all_similarities(features, metric)
    for include_self in (True, False):
        want = best(matrix, k, include_self)
        for block_bytes in BLOCKS:
            for precision in precisions(dtype):
                assert equal(knn_graph(features, k, include_self, metric, block_bytes, precision), want)


@pytest.mark.parametrize("metric", ["cosine", "inner"])
@pytest.mark.parametrize(("num_items", "distinct", "width", "k", "dtype"), CASES)
def test_an_update_has_the_bits_of_a_search_from_scratch(num_items, distinct, width, k, dtype, metric):
    features = repeated(num_items, distinct, width, dtype)
    features[::3] += 0.1 * torch.randn(features[::3].shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    want = knn_graph(features, k, True, metric)
    for old in (k, max(k, num_items // 2), num_items - 1, num_items):
        known = knn_graph(features[:old], k, True, metric, BLOCKS[1])
        for block_bytes in BLOCKS:
            assert equal(knn_update(features, *known, True, metric, block_bytes), want)


def test_lengths_far_apart():
    features = torch.randn(fewer(500), 40, generator=torch.Generator().manual_seed(0))
    features *= torch.logspace(-4, 8, len(features))[:, None]
    features[::7] = features[0]
    want = best(all_similarities(features, "inner"), 9, False)
    for block_bytes in BLOCKS:
        for precision in precisions(torch.float32):
            assert equal(knn_graph(features, 9, False, "inner", block_bytes, precision), want)


def test_numbers_so_small_that_products_underflow():
    features = repeated(200, 9, 20, torch.float32) * 1e-22
    want = best(all_similarities(features, "inner"), 30, False)
    assert equal(knn_graph(features, 30, False, "inner", 1000), want)


def test_products_that_torch_may_round_first():
    features = repeated(fewer(400), 200, 96, torch.float32)
    want, before = knn_graph(features, 10), torch.get_float32_matmul_precision()
    try:
        for setting in ("high", "medium"):
            torch.set_float32_matmul_precision(setting)
            assert equal(knn_graph(features, 10), want)
            assert equal(knn_graph(features, 10, precision="float32", block_bytes=1000), want)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("metric", ["cosine", "inner"])
@pytest.mark.parametrize(("num_items", "distinct", "width", "k", "dtype"), CASES)
def test_a_threshold_that_many_pairs_meet_exactly(num_items, distinct, width, k, dtype, metric):
    features = repeated(num_items, distinct, width, dtype)
    matrix = all_similarities(features, metric).fill_diagonal_(-torch.inf)
    for eta in matrix[0].unique()[1::7].double().tolist():
        above = matrix.double() > eta
        assert (matrix.double() == eta).sum() > 0
        for block_bytes in BLOCKS:
            assert torch.equal(knn_count(features, eta, metric, block_bytes), above.sum(1))
            for cap in (None, k):
                ptr, ids, similarities = knn_threshold(features, eta, cap, None, metric, block_bytes)
                assert torch.equal(ptr.diff(), above.sum(1).clamp(max=cap or num_items))
                want_ids, want = best(matrix, num_items if cap is None else cap, False)
                kept = want.double() > eta
                assert torch.equal(ids, want_ids[kept]) and torch.equal(similarities, want[kept])
