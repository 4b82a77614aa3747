"""Full ranking against the sorted score matrix: masks, ties, padding, hits, large k, many shapes."""

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import _backend
from mmfast.ops.rank import rank, rank_reference
from tests.kernels import fewer

NAMES = ("users", "items", "mask_ptr", "mask_items", "target_ptr", "target_items", "k")


def lists(num_users, num_items, most, rng):
    rows = [np.sort(rng.choice(num_items, rng.integers(0, most + 1), replace=False)) for _ in range(num_users)]
    ptr = torch.tensor(np.cumsum([0] + [len(row) for row in rows]), dtype=torch.int64)
    return ptr, torch.tensor(np.concatenate([*rows, []]), dtype=torch.int32)


def case(num_users, num_items, width, k, dtype=torch.float32, most=None, integers=False):
    """Random tables; `integers` gives exact scores with many ties."""
    rng = np.random.default_rng(num_users * 7919 + num_items)
    draw = (lambda n: rng.integers(-2, 3, (n, width))) if integers else (lambda n: rng.standard_normal((n, width)))
    most = min(num_items, 20) if most is None else most
    mask, targets = lists(num_users, num_items, most, rng), lists(num_users, num_items, min(num_items, 8), rng)
    users, items = (torch.tensor(draw(n), dtype=dtype) for n in (num_users, num_items))
    return dict(zip(NAMES, (users, items, *mask, *targets, k), strict=True))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


SHAPES = [
    (0, 5, 3, 2),
    (1, 1, 1, 1),
    (3, 5, 0, 5),
    (7, 31, 5, 31),
    (129, 1025, 8, 50),
    (128, 1024, 8, 10),
    (11, 4099, 16, 300),
    (5, 6000, 64, 3000),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_float64_equals_the_reference(shape):
    arguments = case(*shape, dtype=torch.float64)
    top, scores, hits = rank(**arguments)
    want_top, want_scores, want_hits = rank_reference(**arguments)
    assert top.dtype == torch.int32 and hits.dtype == torch.bool and scores.dtype == torch.float64
    assert torch.equal(top, want_top) and torch.equal(hits, want_hits)
    assert torch.allclose(scores, want_scores, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_go_to_the_lower_id(shape, dtype):
    arguments = case(*shape, dtype=dtype, integers=True)  # sums of small integers are exact: equal to the last bit
    assert equal(rank(**arguments), rank_reference(**arguments))


def test_float32_is_as_exact_as_torch():
    arguments = case(300, 3001, 64, 50)
    top, scores, _ = rank(**arguments)
    exact = arguments["users"].double() @ arguments["items"].double().T
    torch_error = (arguments["users"] @ arguments["items"].T - exact).abs().max()
    assert (scores - exact.gather(1, top.long())).abs().max() <= 2 * torch_error + 1e-7
    wide = {**arguments, "users": arguments["users"].double(), "items": arguments["items"].double()}
    kth = rank(**wide)[1][:, -1:]
    assert bool((exact.gather(1, top.long()) >= kth - 2 * torch_error - 1e-7).all())


def test_masked_items_never_appear_and_short_rows_are_padded():
    arguments = case(50, 40, 8, 30, most=40, integers=True)
    top, scores, hits = rank(**arguments)
    assert equal((top, scores, hits), rank_reference(**arguments))
    ptr, masked = arguments["mask_ptr"], arguments["mask_items"]
    for user in range(50):
        hidden = masked[ptr[user] : ptr[user + 1]]
        left = min(30, 40 - len(hidden))
        assert not np.isin(top[user, :left], hidden).any()
        assert (top[user, left:] == -1).all() and torch.isneginf(scores[user, left:]).all()
        assert not hits[user, left:].any()
    assert (top == -1).any()


def test_equal_scores_everywhere():
    arguments = {**case(40, 5000, 4, 70), "users": torch.zeros(40, 4)}
    assert equal(rank(**arguments), rank_reference(**arguments))


@pytest.mark.parametrize(
    ("num_items", "distinct", "width", "k", "dtype"),
    [
        (fewer(1030), 25, 33, 60, torch.float32),
        (fewer(2060), 400, 65, 7, torch.float32),
        (fewer(1500), 3, 64, 20, torch.float64),
        (fewer(1100), 40, 17, 50, torch.bfloat16),
    ],
)
def test_equal_items_have_equal_scores_wherever_they_lie(num_items, distinct, width, k, dtype):
    arguments = case(40, num_items, width, num_items, dtype)
    group = torch.randint(distinct, (num_items,), generator=torch.Generator().manual_seed(0))
    arguments["items"] = arguments["items"][group]
    top, scores, _ = rank(**arguments)
    left = top >= 0
    matrix = torch.full((40, num_items), -torch.inf, dtype=scores.dtype)
    matrix[torch.nonzero(left)[:, 0], top[left].long()] = scores[left]
    for one in group.unique():
        same = matrix[:, group == one]
        assert ((same == same.max(1, keepdim=True).values) | same.isneginf()).all()
    order = matrix.argsort(dim=1, descending=True, stable=True)[:, :k]
    for precision in ("float32",) if dtype == torch.float64 else ("float32", "bfloat16"):
        few, best, _ = rank(**{**arguments, "k": k}, precision=precision)
        assert torch.equal(best, matrix.gather(1, order)) and torch.equal(few[few >= 0], order[few >= 0].int())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("user", "items", "want"),
    [
        ([1e20, 1e20], [[1e20, -1e20], [1, 1]], [(1, 2e20), (0, 0)]),
        ([1e20, 1e20, 1e20], [[-3e18, -3e18, 4e18], [1, 1, 1]], [(1, 3e20), (0, -2e38)]),
        ([1e-30, 0.5], [[-3.4e38, 1], [1, 1]], [(1, 0.5), (0, -3.4e8)]),
        ([0, 1], [[3.4e38, 1], [1, 2]], [(1, 2), (0, 1)]),
        ([3.4e38, 1], [[0, 1], [-1e-30, 2]], [(0, 1), (1, -3.4e8)]),
        ([3e38, 3e38], [[2, 2], [1, 0], [3, 3]], [(0, float("inf")), (2, float("inf"))]),
        ([1e-30, 1e-30], [[1e-30, 0], [0, 0], [0, 0]], [(0, 0), (1, 0)]),
    ],
)
def test_numbers_at_the_ends_of_float32(user, items, want, precision):
    arguments = {**case(1, len(items), 1, 2, most=0), "users": torch.tensor([user]), "items": torch.tensor(items)}
    arguments = {name: part.float() if name in ("users", "items") else part for name, part in arguments.items()}
    top, scores, _ = rank(**arguments, precision=precision)
    assert top.tolist() == [[item for item, _ in want]]
    torch.testing.assert_close(scores, torch.tensor([[score for _, score in want]], dtype=torch.float32))


def test_lengths_that_underflow_still_bound_the_products():
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(60, 130, dtype=torch.float64, generator=generator) * 1e-172
    items = torch.randn(40, 130, dtype=torch.float64, generator=generator)[torch.arange(1500) % 40] * 1e150
    arguments = {**case(60, 1500, 1, 1500, most=0), "users": users, "items": items}
    every = rank(**arguments)
    assert equal(rank(**{**arguments, "k": 1}), [part[:, :1] for part in every])


@pytest.mark.parametrize("descending", [True, False])
def test_sorted_scores(descending):
    # Ascending scores make every item a candidate: the list is cut back again and again.
    items = torch.linspace(-1, 1, 5003).sort(descending=descending).values[:, None]
    arguments = {**case(9, 5003, 1, 20), "users": torch.ones(9, 1), "items": items}
    assert equal(rank(**arguments), rank_reference(**arguments))


def test_infinite_scores():
    items = torch.tensor([[1.0], [torch.inf], [-torch.inf], [2.0]])
    arguments = {**case(1, 4, 1, 4, most=0), "users": torch.ones(1, 1), "items": items}
    top, scores, _ = rank(**arguments)
    assert top.tolist() == [[1, 3, 0, -1]]
    assert scores.tolist() == [[float("inf"), 2.0, 1.0, float("-inf")]]
    assert equal(rank(**arguments, precision="bfloat16"), rank(**arguments, precision="float32"))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(("num_items", "num_candidates"), [(1, 1), (40, 7), (3000, 1), (3000, 2500), (40, 40)])
def test_candidates_are_the_only_ones_ranked(num_items, num_candidates, backend):
    k = min(num_candidates, 30)
    arguments = case(30, num_items, 8, k, dtype=torch.float64, integers=True)
    chosen = np.sort(np.random.default_rng(1).choice(num_items, num_candidates, replace=False)).astype(np.int32)
    masked = [set(row.tolist()) for row in np.split(arguments["mask_items"].numpy(), arguments["mask_ptr"][1:-1])]
    wanted = [set(row.tolist()) for row in np.split(arguments["target_items"].numpy(), arguments["target_ptr"][1:-1])]
    exact = arguments["users"] @ arguments["items"].T
    with _backend.use_backend(backend):
        top, scores, hits = rank(**arguments, candidates=torch.from_numpy(chosen))
    for u in range(30):
        best = sorted((-exact[u, i].item(), i) for i in chosen.tolist() if i not in masked[u])[:k]
        assert top[u].tolist() == [i for _, i in best] + [-1] * (k - len(best))
        assert scores[u].tolist() == [-s for s, _ in best] + [-np.inf] * (k - len(best))
        assert hits[u].tolist() == [i in wanted[u] for i in top[u].tolist()]


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_tables_are_scored_in_float32(dtype, precision):
    arguments = case(70, 1500, 24, 20)
    half = {name: arguments[name].to(dtype) for name in ("users", "items")}
    got = rank(**{**arguments, **half}, precision=precision)
    wide = {name: table.double() for name, table in half.items()}
    want = rank(**{**arguments, **wide})
    assert got[1].dtype == torch.float32 and torch.equal(got[0], want[0]) and torch.equal(got[2], want[2])
    assert torch.allclose(got[1].double(), want[1], rtol=1e-6, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(rank(**{**arguments, **half}, precision=precision), got)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(("num_items", "k"), [(40, 40), (3000, 5)])
def test_nan_names_the_first_user_row(backend, num_items, k):
    arguments = case(300, num_items, 4, k)
    arguments["users"][[277, 150]] = float("nan")
    with _backend.use_backend(backend), pytest.raises(MmfastError, match="the scores of user row 150 hold NaN"):
        rank(**arguments)


def test_any_number_of_threads():
    arguments = case(fewer(700), 2500, 64, 50)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(rank(**arguments))
    finally:
        torch.set_num_threads(before)
    assert equal(results[0], results[1]) and equal(results[0], results[2])


def test_strided_tables_and_the_reference_backend():
    arguments = case(20, 50, 8, 10, dtype=torch.float64)
    strided = {
        **arguments,
        "users": arguments["users"].T.contiguous().T,
        "items": arguments["items"].repeat(1, 2)[:, ::2],
    }
    strided["items"] = torch.stack([arguments["items"]] * 2, -1)[..., 0]
    assert not strided["users"].is_contiguous() and not strided["items"].is_contiguous()
    assert torch.equal(rank(**arguments)[0], rank(**strided)[0])
    with _backend.use_backend("reference"):
        assert torch.equal(rank(**arguments)[0], rank_reference(**arguments)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 6}, "rank: k=6 but there are only 5 items; choose 1 <= k <= 5"),
        ({"k": 0}, "k=0"),
        ({"k": "2"}, "rank: k is '2'; wanted a whole number"),
        ({"k": 2.0}, r"rank: k is 2\.0; wanted a whole number"),
        ({"items": torch.tensor(1.0)}, r"rank: items is \[\]; wanted items \[I, D\]"),
        ({"candidates": torch.tensor(1, dtype=torch.int32)}, r"rank: candidates is \[\]; wanted"),
        ({"precision": "int8"}, "precision='int8' is unknown; choose one of auto, float32, bfloat16"),
        ({"candidates": torch.tensor([3], dtype=torch.int32)}, "k=2 but there are only 1 candidates; choose 1 <= k"),
        ({"candidates": torch.tensor([3, 1], dtype=torch.int32)}, "candidates do not ascend; sort them"),
        ({"candidates": torch.tensor([1, 1], dtype=torch.int32)}, "candidates do not ascend"),
        ({"candidates": torch.tensor([1, 5], dtype=torch.int32)}, "candidates holds ids from 1 to 5; wanted 0 to 4"),
        ({"candidates": torch.tensor([1, 2])}, "candidates is Long; wanted Int"),
        ({"items": torch.ones(5, 2)}, "items has size 2 along axis 1; wanted 3"),
        ({"items": torch.ones(5, 3).double()}, "items is Double; wanted Float"),
        ({"users": torch.ones(2, 3).int()}, "users is Int; wanted Float, Double, Half or BFloat16"),
        ({"mask_ptr": torch.tensor([0, 1])}, "mask_ptr has size 2 along axis 0; wanted 3"),
        ({"mask_ptr": torch.tensor([0, 2, 1])}, "mask_ptr falls from 2 to 1 at user row 1"),
        ({"mask_ptr": torch.tensor([0, 1, 9])}, "mask_ptr runs from 0 to 9"),
        ({"mask_items": torch.tensor([0, 5], dtype=torch.int32)}, "mask_items holds ids from 0 to 5; wanted 0 to 4"),
        ({"target_items": torch.tensor([3, 1], dtype=torch.int32)}, "target_items of user row 1 do not ascend"),
        ({"target_items": torch.tensor([1, 3])}, "target_items is Long; wanted Int"),
    ],
)
def test_bad_arguments(change, message):
    pair = torch.tensor([1, 3], dtype=torch.int32)
    good = (torch.ones(2, 3), torch.ones(5, 3), torch.tensor([0, 1, 2]), pair, torch.tensor([0, 0, 2]), pair, 2)
    with pytest.raises(MmfastError, match=message):
        rank(**{**dict(zip(NAMES, good, strict=True)), **change})


def test_opcheck():
    *tables, k = case(5, 9, 3, 4).values()
    torch.library.opcheck(torch.ops.mmfast.rank, (*tables, None, k, "float32"))
    some = torch.tensor([0, 2, 3, 7], dtype=torch.int32)
    torch.library.opcheck(
        torch.ops.mmfast.rank, (*(t.bfloat16() for t in tables[:2]), *tables[2:], some, k, "bfloat16")
    )
