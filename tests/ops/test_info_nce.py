"""info_nce: the formulas of the models that use it, accuracy, extreme temperatures, messages."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.ops import info_nce, use_backend
from tests.accuracy import assert_as_accurate_as_torch, value_and_gradients

KINDS = (
    {},
    {"negatives": "all"},
    {"negatives": "all", "intra": True},
    {"negatives": "all", "normalize": False, "reduction": "sum"},
    {"intra": True, "reduction": "none"},
)


def tables(anchors, candidates, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(anchors, width, dtype=torch.float64, generator=generator)
    y = torch.randn(candidates, width, dtype=torch.float64, generator=generator)
    return x, y, torch.randint(0, candidates, (anchors,), generator=generator)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(
    ("anchors", "candidates", "width"), [(1, 1, 1), (1, 700, 8), (127, 5, 3), (129, 513, 17), (257, 1031, 64)]
)
def test_error_is_at_most_twice_that_of_pytorch(anchors, candidates, width, options):
    x, y, index = tables(anchors, candidates, width)
    # A loss is the difference of two numbers that are larger than it, each of them rounded.
    assert_as_accurate_as_torch(lambda x, y: info_nce(x, y, 0.2, index, **options), x, y, roundings=2)


def terms(x, y, temperature):
    return torch.exp(F.normalize(x) @ F.normalize(y).T / temperature)


def test_formula_of_protocol_section_8():
    x, y, index = tables(9, 30, 4)
    scores = terms(x, y[index], 0.2)
    want = torch.stack([-torch.log(scores[b, b] / scores[b].sum()) for b in range(9)]).mean()
    torch.testing.assert_close(info_nce(x, y, 0.2, index), want)
    torch.testing.assert_close(info_nce(x, y[index], 0.2), want)


def test_formula_of_lgmrec():
    x, y, users = tables(9, 30, 4)
    scores = terms(x, y, 0.2)
    want = sum(-torch.log(scores[b, user] / scores[b].sum()) for b, user in enumerate(users))
    torch.testing.assert_close(info_nce(x, y, 0.2, users, negatives="all", reduction="sum"), want)


def test_formula_of_slmrec():
    x, y, _ = tables(9, 9, 4)
    want = F.cross_entropy(x @ y.T / 0.5, torch.arange(9))
    torch.testing.assert_close(info_nce(x, y, 0.5, normalize=False), want)


def test_formula_of_micro():
    a, b, _ = tables(9, 9, 4)
    inter, intra = terms(a, b, 0.5), terms(a, a, 0.5)
    each = [-torch.log(inter[r, r] / (intra[r].sum() - intra[r, r] + inter[r].sum())) for r in range(9)]
    torch.testing.assert_close(info_nce(a, b, 0.5, intra=True), torch.stack(each).mean())


def test_repeated_rows_stay():
    x, y, _ = tables(4, 4, 3)
    index = torch.tensor([2, 2, 2, 2])
    assert info_nce(x, y, 0.2, index).item() == pytest.approx(math.log(4))
    assert_as_accurate_as_torch(lambda x, y: info_nce(x, y, 0.2, index), x, y)


@pytest.mark.parametrize("temperature", [0.01, 1e-4, 100.0])
def test_extreme_temperatures(temperature):
    x, y, index = tables(65, 600, 16)
    x[0], x[1] = y[index[0]], -y[index[1]]  # the positive as near and as far as can be
    assert_as_accurate_as_torch(lambda x, y: info_nce(x, y, temperature, index, negatives="all"), x, y)


@pytest.mark.parametrize("score", [1e4, -1e4])
def test_scores_of_ten_thousand(score):
    x, y = torch.tensor([[1.0]]), torch.tensor([[score], [0.0]])
    options = {"index": torch.tensor([0]), "normalize": False, "negatives": "all"}
    value, by_x, by_y = value_and_gradients(lambda x, y: info_nce(x, y, 1.0, **options), x, y)
    assert value.item() == max(0.0, -score)
    assert by_x.item() == 3 * max(0.0, -score) and by_y.flatten().tolist() == ([0.0, 0.0] if score > 0 else [-3.0, 3.0])


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e15])
def test_short_and_long_rows(size):
    x, y, index = tables(20, 30, 8)
    for dtype in (torch.float64, torch.float32):
        given = (x * size).to(dtype), (y * size).to(dtype)
        ours = value_and_gradients(lambda x, y: info_nce(x, y, 0.2, index, negatives="all"), *given)
        with use_backend("reference"):
            want = value_and_gradients(lambda x, y: info_nce(x, y, 0.2, index, negatives="all"), *given)
        for a, b in zip(ours, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=float(b.abs().max()) * 1e-4)


def test_only_the_wanted_gradients():
    x, y, index = tables(9, 30, 4)
    (by_y,) = torch.autograd.grad(info_nce(x, y.requires_grad_(), 0.2, index, negatives="all"), y)
    y.requires_grad_(False)
    (by_x,) = torch.autograd.grad(info_nce(x.requires_grad_(), y, 0.2, index, negatives="all"), x)
    both = value_and_gradients(lambda x, y: info_nce(x, y, 0.2, index, negatives="all") / 3, x, y)
    torch.testing.assert_close([by_x, by_y], both[1:])


def bad_arguments():
    x, y, index = tables(5, 7, 3)
    yield "x has 5 rows and y has 7; give index", (x, y, 0.2)
    yield "the batch is empty", (x[:0], y, 0.2, index[:0])
    yield "temperature is 0; choose", (x, y, 0, index)
    yield "temperature is nan; choose", (x, y, float("nan"), index)
    yield "of one dtype and width", (x, y[:, :2], 0.2, index)
    yield "of one dtype and width", (x.float(), y, 0.2, index)
    yield r"index is torch.int32 \[5\]; wanted int64 \[5\]", (x, y, 0.2, index.int())
    yield r"index is torch.int64 \[4\]; wanted int64 \[5\]", (x, y, 0.2, index[1:])


@pytest.mark.parametrize(("message", "arguments"), list(bad_arguments()))
def test_messages(message, arguments):
    with pytest.raises(MmfastError, match=message):
        info_nce(*arguments)


def test_messages_of_options():
    x, y, index = tables(5, 7, 3)
    with pytest.raises(MmfastError, match="negatives is 'some'; choose one of batch, all"):
        info_nce(x, y, 0.2, index, negatives="some")
    with pytest.raises(MmfastError, match="reduction is 'max'; choose one of mean, sum, none"):
        info_nce(x, y, 0.2, index, reduction="max")
    with pytest.raises(MmfastError, match=r"index holds ids from . to 7; wanted 0 to 6"):
        info_nce(x, y, 0.2, index.clone().fill_(7).index_fill_(0, torch.tensor([0]), 1), negatives="all")
    with pytest.raises(MmfastError, match=r"index holds ids from -1 to .; wanted 0 to 6"):
        info_nce(x, y, 0.2, index.clone().index_fill_(0, torch.tensor([0]), -1))
