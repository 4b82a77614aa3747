"""Exact neighbours against brute force and the golden numbers: ties, zero rows, memory-mapped input, threads."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import _backend
from mmfast.ops.knn_graph import knn_graph, knn_graph_reference, knn_update, knn_update_reference
from tests.kernels import fewer

GOLDEN = Path(os.environ.get("MMFAST_GOLDEN", Path(__file__).parents[1] / "golden"))
ONE_PANEL, SMALL_PANELS = 64 << 20, 1000


def table(num_items, width, dtype=torch.float64, seed=0):
    return torch.randn(num_items, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def check_against_float64(features, neighbours, similarities, include_self):
    """Every chosen neighbour is among the true k best up to rounding, none is missing, none repeated."""
    x = torch.nn.functional.normalize(features.double(), eps=1e-12)
    exact = x @ x.T
    torch_error = (torch.nn.functional.normalize(features.float()) @ x.T.float() - exact).abs().max()
    assert (similarities - exact.gather(1, neighbours.long())).abs().max() <= 2 * torch_error + 1e-7
    others = exact.clone().fill_diagonal_(-torch.inf)
    chosen, k = (neighbours[:, 1:], neighbours.shape[1] - 1) if include_self else (neighbours, neighbours.shape[1])
    kth = others.topk(k).values[:, -1:]
    assert bool((others.gather(1, chosen.long()) >= kth - 1e-6).all())
    assert all(len(set(row)) == k for row in chosen.tolist())
    assert bool((similarities[:, 1 if include_self else 0 :].diff(dim=1) <= 0).all())


@pytest.mark.parametrize("modality", ["image", "text"])
def test_golden(modality):
    with np.load(GOLDEN / "shared.npz") as golden:
        features = torch.tensor(golden[f"{modality}_features"])
        want = torch.tensor(golden[f"knn/{modality}/neighbours"])
        want_similarities = torch.tensor(golden[f"knn/{modality}/neighbour_similarity"])
    neighbours, similarities = knn_graph(features, k=want.shape[1])
    assert torch.equal(neighbours.long(), want)
    assert torch.allclose(similarities.double(), want_similarities, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "inner"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(
    ("num_items", "width", "k"),
    [(1, 3, 1), (2, 1, 1), (5, 3, 4), (31, 7, 30), (129, 9, 3), (384, 9, 3), (385, 31, 7), (fewer(800), 5, fewer(300))],
)
def test_float64_equals_brute_force(num_items, width, k, include_self, metric):
    if num_items == 1 and not include_self:
        with pytest.raises(MmfastError, match="1 items, so there is none to choose beside the item itself"):
            knn_graph(table(1, width), k, include_self)
        return
    features = table(num_items, width)
    want = knn_graph_reference(features, k, include_self, metric)
    for block_bytes in (ONE_PANEL, SMALL_PANELS):
        neighbours, similarities = knn_graph(features, k, include_self, metric, block_bytes)
        assert torch.equal(neighbours, want[0])
        assert torch.allclose(similarities, want[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_float32_and_float16_are_exact_up_to_rounding(dtype, include_self):
    features = table(1031, 67, torch.float32).to(dtype)
    neighbours, similarities = knn_graph(features, 10, include_self, block_bytes=300_000)
    assert neighbours.dtype == torch.int32 and similarities.dtype == torch.float32
    check_against_float64(features, neighbours, similarities, include_self)


@pytest.mark.parametrize("block_bytes", [ONE_PANEL, SMALL_PANELS])
@pytest.mark.parametrize("include_self", [True, False])
def test_ties_go_to_the_lower_id(include_self, block_bytes):
    # Small integers: inner products are exact, and most similarities occur many times.
    features = torch.randint(-1, 2, (fewer(800), 6), generator=torch.Generator().manual_seed(0)).float()
    want = knn_graph_reference(features, 40, include_self, "inner")
    assert equal(knn_graph(features, 40, include_self, "inner", block_bytes), want)


def test_identical_rows_and_self_first():
    items = fewer(600)
    neighbours, similarities = knn_graph(torch.ones(items, 4), 5)
    assert neighbours[:, 0].tolist() == list(range(items))
    assert neighbours[0].tolist() == [0, 1, 2, 3, 4] and neighbours[-1].tolist() == [items - 1, 0, 1, 2, 3]
    assert bool((similarities == 1).all())


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("include_self", [True, False])
def test_a_zero_row_is_in_no_list_but_its_own(include_self, backend):
    features = table(300, 8, torch.float32)
    features[[4, 280]] = 0
    with _backend.use_backend(backend):
        neighbours, similarities = knn_graph(features, 299, include_self)
        inner = knn_graph(features, 299, include_self, "inner")[1]
    alone = [4, *[-1] * 298] if include_self else [-1] * 299
    assert neighbours[4].tolist() == alone
    assert similarities[4].tolist() == [0.0 if i >= 0 else -float("inf") for i in alone]
    rest = [i for i in range(300) if i not in (4, 280)]
    left = 298 - (not include_self)
    assert not np.isin(neighbours[rest], [4, 280]).any()
    assert (neighbours[rest, :left] >= 0).all() and (neighbours[rest, left:] == -1).all()
    assert (neighbours[rest, 0].tolist() == rest) == include_self
    assert torch.equal(torch.isfinite(similarities[rest]), neighbours[rest] >= 0)
    assert bool(torch.isfinite(inner).all())  # inner products with a zero row are numbers like any other


def test_only_zero_rows():
    ids, similarities = knn_graph(torch.zeros(3, 2), 2)
    assert ids.tolist() == [[0, -1], [1, -1], [2, -1]] and similarities[:, 0].tolist() == [0.0] * 3
    assert (knn_graph(torch.zeros(3, 2), 2, include_self=False)[0] == -1).all()


def test_large_and_small_numbers_do_not_overflow():
    features = table(50, 8, torch.float32)
    scaled = features * torch.logspace(-6, 30, 50)[:, None]
    want, got = knn_graph(features, 6), knn_graph(scaled, 6)
    assert torch.allclose(want[1], got[1], atol=1e-6)
    with pytest.raises(MmfastError, match="numbers too large"):
        knn_graph(scaled, 6, metric="inner")


def test_memory_mapped_and_strided_input(tmp_path):
    features = table(520, 33, torch.float32)
    np.save(tmp_path / "f.npy", features.numpy())
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    want = knn_graph(features, 4)
    assert equal(want, knn_graph(mapped, 4))
    assert equal(want, knn_graph(features.T.contiguous().T, 4))
    half = knn_graph(mapped.astype(np.float16), 4, block_bytes=SMALL_PANELS)
    assert equal(half, knn_graph(torch.tensor(mapped.astype(np.float16)), 4, block_bytes=SMALL_PANELS))


def anonymous_bytes():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
@pytest.mark.skipif(
    any(name in os.environ for name in ("MMFAST_TEST_EMULATED", "MMFAST_TEST_DEVICE")),
    reason="a device holds the table whole",
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_mapped_table_is_never_copied_whole(tmp_path, precision):
    np.save(tmp_path / "f.npy", table(3000, 4000, torch.float32).half().numpy())
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    arguments = {"k": 5, "block_bytes": 1 << 20, "precision": precision}
    knn_graph(mapped[:100], **arguments)  # libraries take their own work space on first use
    before, most, done = anonymous_bytes(), 0, threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.001):
            most = max(most, anonymous_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        knn_graph(mapped[:1500] if precision == "bfloat16" else mapped, **arguments)
    finally:
        done.set()
        watcher.join()
    assert 0 < most < 20 << 20  # two panels of one tile are 12 MB; the table in float32 is 48 MB, half of it 24 MB


@pytest.mark.parametrize("block_bytes", [ONE_PANEL, 200_000])
@pytest.mark.parametrize("num_items", [100, fewer(1500)])
def test_any_number_of_threads(num_items, block_bytes):
    features = table(num_items, 200, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(knn_graph(features, 10, block_bytes=block_bytes))
    finally:
        torch.set_num_threads(before)
    assert equal(results[0], results[1]) and equal(results[0], results[2])


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_names_the_row(backend, bad):
    features = table(600, 5, torch.float32)
    features[[577, 300], 2] = bad
    message = "row 300 of features holds NaN, infinity or numbers too large"
    with _backend.use_backend(backend), pytest.raises(MmfastError, match=message):
        knn_graph(features, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 50}, "knn_graph: k=50 but there are only 20 items; choose k <= 20"),
        ({"k": 20, "include_self": False}, "k=20 but there are only 20 items; choose k <= 19"),
        ({"k": 0}, "k=0 but every item needs a neighbour; choose 1 <= k <= 20"),
        ({"metric": "dot"}, "metric='dot' is unknown; choose cosine or inner"),
        ({"k": True}, "k is True; wanted a whole number"),
        ({"block_bytes": 1e6}, r"block_bytes is 1000000\.0; wanted a whole number"),
        ({"k": 2.5}, r"k is 2\.5; wanted a whole number"),
        ({"features": [[1.0, 2.0]]}, "features is a list; wanted a dense tensor or array"),
        ({"features": torch.eye(20).to_sparse()}, "features is a torch.sparse_coo tensor; wanted a dense"),
        ({"block_bytes": 0}, "block_bytes=0; choose a number above zero"),
        ({"precision": "int8"}, "precision='int8' is unknown; choose one of auto, float32, bfloat16"),
        ({"features": torch.ones(20)}, r"features has shape \(20,\)"),
        ({"features": torch.ones(20, 0)}, r"features has shape \(20, 0\)"),
        ({"features": torch.ones(20, 2).int()}, "wanted .* float16, bfloat16, float32 or float64"),
        ({"features": torch.ones(0, 2)}, "features has 0 items, so there is none to choose; give more items"),
        (
            {"features": np.ones((20, 2))[::-1]},
            r"array of <f8 with strides \(-16, 8\), which torch cannot",
        ),
        ({"features": np.ones((20, 2), dtype=">f4")}, "array of >f4 with strides .* pass np.ascontiguousarray"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(MmfastError, match=message):
        knn_graph(**{"features": torch.ones(20, 2), "k": 2, **arguments})


@pytest.mark.parametrize("metric", ["cosine", "inner"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(
    ("num_items", "old", "k"), [(9, 0, 4), (9, 9, 4), (9, 2, 4), (390, 1, 7), (fewer(1000), fewer(701), 9)]
)
def test_update_equals_a_search_from_scratch(num_items, old, k, include_self, metric):
    features = table(num_items, 11)
    features[num_items // 2] = 0
    old_k = min(k, max(old - (not include_self), 0))
    known = [torch.full((old, k), -1, dtype=torch.int32), torch.full((old, k), -torch.inf, dtype=torch.float64)]
    if old_k:
        for part, whole in zip(knn_graph(features[:old], old_k, include_self, metric), known, strict=True):
            whole[:, :old_k] = part
    want = knn_graph(features, k, include_self, metric)
    given = [part.clone() for part in known]
    for block_bytes in (ONE_PANEL, SMALL_PANELS):
        neighbours, similarities = knn_update(features, *known, include_self, metric, block_bytes)
        assert torch.equal(neighbours, want[0]) and torch.equal(similarities, want[1])
    assert equal(known, given)
    got = knn_update_reference(features, *known, include_self, metric)
    assert torch.equal(got[0], want[0]) and torch.allclose(got[1], want[1], rtol=1e-12, atol=1e-12)


def test_update_breaks_ties_by_id_and_leaves_old_pairs_alone():
    features = torch.randint(-1, 2, (500, 6), generator=torch.Generator().manual_seed(0)).float()
    lists = knn_graph(features[:350], 20, metric="inner")
    assert equal(knn_update(features, *lists, metric="inner"), knn_graph(features, 20, metric="inner"))
    features[:350] *= -1  # products of two old rows stay as they are, and so must their lists
    assert equal(knn_update(features[:350], *lists, metric="inner"), lists)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbours": torch.zeros(2, 3).int()}, r"shape \(2, 3\) and similarities \(3, 3\)"),
        ({"features": torch.ones(2, 2)}, "k=3 but there are only 2 items"),
        ({"features": torch.ones(2, 2), "k": 2}, "neighbours has 3 rows, but features only 2"),
        ({"neighbours": torch.full((3, 3), 7).int()}, "neighbours holds ids from 7 to 7; wanted 0 to 2"),
        ({"include_self": False}, "row 0 of neighbours holds the row itself"),
        ({"neighbours": torch.full((3, 3), -1).int()}, "row 0 of neighbours does not hold the row itself"),
        ({"neighbours": torch.zeros(3, 3).long()}, "neighbours is Long; wanted Int"),
        ({"similarities": torch.full((3, 3), torch.nan)}, "similarities holds NaN"),
        ({"similarities": torch.zeros(3, 3).double()}, "similarities is Double; wanted Float"),
    ],
)
def test_bad_updates(change, message):
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]])
    k = change.pop("k", 3)
    neighbours, similarities = knn_graph(features[:3], k)
    arguments = {"features": features, "neighbours": neighbours, "similarities": similarities, **change}
    with pytest.raises((MmfastError, RuntimeError), match=message):
        knn_update(**arguments)


def test_opcheck():
    torch.library.opcheck(torch.ops.mmfast.knn_graph, (table(9, 4), 3, True, "cosine", ONE_PANEL, "float32"))
    torch.library.opcheck(torch.ops.mmfast.knn_graph, (table(9, 4).float(), 3, False, "inner", ONE_PANEL, "bfloat16"))
    lists = knn_graph(table(7, 4), 3)
    torch.library.opcheck(torch.ops.mmfast.knn_update, (table(9, 4), *lists, True, "cosine", ONE_PANEL))
