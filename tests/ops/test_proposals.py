"""Neighbours and rankings proposed in bfloat16 and decided in float32 are those of float32 alone."""

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import knn_graph, knn_threshold, rank
from tests.kernels import DEVICE, EMULATED, fewer

SMALL_PANELS = 300_000
USERS = fewer(600)


def table(num_items, width, seed=0):
    return torch.randn(num_items, width, generator=torch.Generator().manual_seed(seed))


def clustered(num_items, width, share, spread, seed=0):
    """Return rows of which a share lies close round one of them: bfloat16 cannot tell those apart."""
    x, close = table(num_items, width, seed), int(share * num_items)
    x[:close] = x[0] + spread * x[:close]
    return x[torch.randperm(num_items, generator=torch.Generator().manual_seed(seed))]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def same_up_to_float32(got, want, exact):
    """Whether lists agree with float64's, but for neighbours that float32 cannot tell apart."""
    assert torch.allclose(got[1].double(), want[1], rtol=0, atol=1e-6)
    swapped = got[0] != want[0]
    rows = torch.nonzero(swapped)[:, 0]
    assert ((exact[rows, got[0][swapped].long()] - want[1][swapped]).abs() < 1e-6).all()
    assert swapped.float().mean() < 0.01
    assert all(len(set(row)) == len(row) for row in got[0][(got[0] >= 0).all(1)].tolist())


@pytest.mark.parametrize("width", [64, 384, 1031])
def test_products_of_this_machine_keep_to_the_bound(width):
    # The bound that csrc/cpu/proposals.cpp states, computed here once more.
    x = torch.cat([table(200, width) * torch.logspace(-3, 3, 200)[:, None], torch.ones(5, width) * 1.00390625])
    rounded = x.bfloat16()
    norm, error = x.double().norm(dim=1), (rounded.double() - x.double()).norm(dim=1)
    other = norm + error
    product = (rounded @ rounded.T).double()
    bound = error[:, None] * other + norm[:, None] * error + 1.01 * width * 2.0**-23 * other[:, None] * other
    off = (product - x.double() @ x.double().T).abs()
    assert (off <= bound + 2.0**-8 * product.abs()).all()
    assert off.max() > 0  # it is bfloat16 that is measured


@pytest.mark.parametrize("block_bytes", [64 << 20, SMALL_PANELS])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(
    "features",
    [
        pytest.param(table(fewer(1100), 130), id="decided by the proposals"),
        pytest.param(clustered(fewer(1100), 130, 0.3, 0.06), id="some rows searched again"),
        pytest.param(clustered(fewer(1100), 130, 0.8, 0.06), id="all rows searched again"),
        pytest.param(table(50, 70), id="every row kept"),
    ],
)
def test_neighbours_are_those_of_float64(features, include_self, block_bytes):
    x = torch.nn.functional.normalize(features.double())
    exact, want = x @ x.T, knn_graph(features.double(), 10, include_self)
    got = knn_graph(features, 10, include_self, block_bytes=block_bytes, precision="bfloat16")
    same_up_to_float32(got, want, exact)
    assert equal(got, knn_graph(features, 10, include_self, precision="float32"))


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_ties_go_to_the_lower_id(share, include_self):
    # Products of small integers are exact in both; equal rows and equal products fill many lists.
    features = torch.randint(-2, 3, (fewer(900), 8), generator=torch.Generator().manual_seed(0)).float()
    features[: int(share * len(features))] = features[0]
    got = knn_graph(features, 12, include_self, "inner", SMALL_PANELS, "bfloat16")
    assert equal(got, knn_graph(features, 12, include_self, "inner", SMALL_PANELS, "float32"))


def test_inner_products_of_rows_of_all_lengths():
    features = table(fewer(700), 90)
    features *= torch.logspace(-4, 4, len(features))[:, None]
    got, want = (
        knn_graph(features, 10, metric="inner", precision="bfloat16"),
        knn_graph(features.double(), 10, metric="inner"),
    )
    assert torch.equal(got[0], want[0]) and torch.allclose(got[1].double(), want[1], rtol=1e-5)
    features[3] = 0
    features[3, 0] = 9e18  # the largest that is taken
    assert equal(*(knn_graph(features[:90], 5, metric="inner", precision=p) for p in ("bfloat16", "float32")))
    features[3, 0] = 1e19  # a sum might overflow on its way
    with pytest.raises(MmfastError, match="row 3 of features holds NaN, infinity or numbers too large to multiply"):
        knn_graph(features, 5, metric="inner")


def test_zero_rows_and_memory_maps(tmp_path):
    features = clustered(600, 70, 0.3, 0.06)
    features[[0, 5, 599]] = 0
    np.save(tmp_path / "half.npy", features.half().numpy())
    mapped = np.load(tmp_path / "half.npy", mmap_mode="r")
    exact = torch.nn.functional.normalize(features.half().double())
    want = knn_graph(features.half().double(), 10)
    got = knn_graph(mapped, 10, block_bytes=SMALL_PANELS, precision="bfloat16")
    assert torch.equal(got[0] < 0, want[0] < 0) and (got[0][[0, 5, 599], 1:] == -1).all()
    same_up_to_float32(got, want, (exact @ exact.T))


def products(features, precision):
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler sees the calling thread alone
    try:
        with torch.profiler.profile() as profile:
            knn_graph(features, 10, precision=precision)
    finally:
        torch.set_num_threads(before)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::mm")


@pytest.mark.skipif(bool(EMULATED) or DEVICE != "cpu", reason="CUDA makes other products")
def test_zero_rows_leave_the_others_to_proposals():
    features = table(3000, 130)
    features[[5, 70]] = 0
    assert 2 * products(features, "bfloat16") < products(features, "float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_under_autocast(precision):
    features = clustered(fewer(1100), 130, 0.3, 0.06)  # some rows are searched again
    want = knn_graph(features, 10, precision=precision)
    with torch.autocast("cpu", torch.bfloat16):
        assert equal(knn_graph(features, 10, precision=precision), want)


@pytest.mark.parametrize("k", [1, 2])
def test_the_shortest_lists(k):
    features = table(200, 64)
    assert torch.equal(*(knn_graph(features, k, precision=p)[0] for p in ("bfloat16", "float32")))
    assert torch.equal(*(knn_threshold(features, 0.1, cap=k, precision=p)[1] for p in ("bfloat16", "float32")))


def test_neighbours_for_any_number_of_threads():
    features = clustered(fewer(1200), 100, 0.3, 1e-3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(knn_graph(features, 10, block_bytes=SMALL_PANELS, precision="bfloat16"))
    finally:
        torch.set_num_threads(before)
    assert equal(results[0], results[1]) and equal(results[0], results[2])


def ranking(users, items, k, seed=0):
    """Arguments of `rank` with some items masked and some wanted for every user."""
    rng = np.random.default_rng(seed)
    lists = []
    for most in (30, 8):
        rows = [np.sort(rng.choice(len(items), rng.integers(0, most), replace=False)) for _ in range(len(users))]
        lists += [torch.tensor(np.cumsum([0, *map(len, rows)])), torch.tensor(np.concatenate(rows), dtype=torch.int32)]
    return users, items, *lists, k


@pytest.mark.parametrize("candidates", [None, torch.arange(0, 2300, 3, dtype=torch.int32)])
@pytest.mark.parametrize(
    ("users", "items"),
    [
        pytest.param(table(USERS, 64), table(2300, 64, 1), id="decided by the proposals"),
        pytest.param(table(USERS, 64), clustered(2300, 64, 0.5, 1e-3, 1), id="users scored again"),
        pytest.param(table(USERS, 64), table(2300, 64, 1) * torch.logspace(-3, 3, 2300)[:, None], id="all lengths"),
    ],
)
def test_rankings_are_those_of_float64(users, items, candidates):
    exact = users.double() @ items.double().T
    want = rank(*ranking(users.double(), items.double(), 20), candidates=candidates)
    top, scores, hits = rank(*ranking(users, items, 20), candidates=candidates, precision="bfloat16")
    # The rounding of sums of 64 terms in float32, whatever their order; in a tie of two items, that of either.
    rounding = 8 * 2.0**-24 * (users.abs().double() @ items.abs().double().T)
    slack = torch.maximum(rounding.gather(1, want[0].long()), rounding.gather(1, top.long()))
    assert ((scores.double() - want[1]).abs() <= slack).all()
    swapped = top != want[0]
    rows = torch.nonzero(swapped)[:, 0]
    assert ((exact[rows, top[swapped].long()] - want[1][swapped]).abs() <= 2 * slack[swapped]).all()
    assert swapped.float().mean() < 0.02 and torch.equal(hits[~swapped], want[2][~swapped])


def test_equal_scores_rank_by_id():
    users, items = (
        torch.randint(-2, 3, (n, 6), generator=torch.Generator().manual_seed(n)).float() for n in (300, 999)
    )
    arguments = ranking(users, items, 40)
    assert equal(rank(*arguments, precision="bfloat16"), rank(*arguments, precision="float32"))


def test_scores_beyond_bfloat16():
    users, items = table(9, 64), table(400, 64, 1)
    items[7] *= 1e36 / items[7].abs().max()  # no order of summing overflows
    items[8, 0] = torch.finfo(torch.float32).max  # rounds to infinity
    arguments = ranking(users, items, 5)
    assert equal(rank(*arguments, precision="bfloat16"), rank(*arguments, precision="float32"))
    items[9, 3] = torch.nan
    with pytest.raises(MmfastError, match="the scores of user row 0 hold NaN"):
        rank(*arguments, precision="bfloat16")


def test_float64_takes_no_proposals():
    with pytest.raises(
        MmfastError, match="precision='bfloat16' proposes for numbers of up to 32 bits, but these are Double"
    ):
        knn_graph(table(9, 4).double(), 3, precision="bfloat16")
