"""cosine_loss, moments, moment_alignment, triple_margins and the regularisers against their formulas."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import (
    cosine_loss,
    frobenius_reg,
    half_square_reg,
    mean_square_reg,
    moment_alignment,
    moments,
    triple_margins,
)
from tests.accuracy import assert_as_accurate_as_torch, value_and_gradients


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "width"), [(1, 1), (2, 8), (67, 9), (131, 64)])
def test_cosine_loss_is_as_accurate_as_torch(size, width):
    x, y = random(size, width), random(size, width, seed=1)
    assert_as_accurate_as_torch(cosine_loss, x, y)
    want = sum(1 - a @ b / (a.norm() * b.norm()) for a, b in zip(x, y, strict=True)) / size
    torch.testing.assert_close(cosine_loss(x, y), want)


def test_cosine_loss_of_short_rows():
    x, y = random(5, 4), random(5, 4, seed=1)
    x[0], x[1], y[2] = 0, x[1] * 1e-10, 0
    assert_as_accurate_as_torch(lambda x, y: cosine_loss(x, y) * 1e-8, x, y)


def test_cosine_loss_messages():
    with pytest.raises(MmfastError, match="with B and D above zero"):
        cosine_loss(random(0, 3), random(0, 3))
    with pytest.raises(MmfastError, match="with B and D above zero"):
        cosine_loss(random(3, 0), random(3, 0))
    with pytest.raises(MmfastError, match="wanted one dtype and one shape"):
        cosine_loss(random(2, 3), random(2, 4))


@pytest.mark.parametrize("shape", [(2,), (7, 3), (4096,), (4097,), (83, 1001)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_moments_are_as_accurate_as_torch(shape, mean):
    assert_as_accurate_as_torch(lambda x: moments(x + mean), random(*shape))


def test_moment_alignment_literally():
    a, b, c = random(9, 4), 2 * random(5, 4, seed=1), random(7, 3, seed=2) + 1
    want = sum((x.var() - y.var()).abs() + (x.mean() - y.mean()).abs() for x, y in ((a, b), (a, c), (b, c)))
    torch.testing.assert_close(moment_alignment(a, b, c), want)
    assert torch.autograd.gradcheck(moment_alignment, [t.requires_grad_() for t in (a, b, c)])


def test_moments_messages():
    with pytest.raises(MmfastError, match="x holds 1 numbers; a variance needs at least two"):
        moments(random(1, 1))
    with pytest.raises(MmfastError, match="got 1 tables; wanted two or more"):
        moment_alignment(random(3, 3))


@pytest.mark.parametrize(("size", "width"), [(1, 1), (255, 9), (257, 64), (700, 67)])
def test_triple_margins_are_as_accurate_as_torch(size, width):
    generator = torch.Generator().manual_seed(0)
    index = [torch.randint(0, n, (size,), generator=generator) for n in (50, 40, 40)]
    assert_as_accurate_as_torch(lambda u, i: triple_margins(u, i, *index), random(50, width), random(40, width, seed=1))


def test_triple_margins_messages():
    users, items, index = random(4, 3), random(5, 3), torch.tensor([0, 1])
    with pytest.raises(MmfastError, match="triple_margins: the batch is empty"):
        triple_margins(users, items, *[index[:0]] * 3)
    with pytest.raises(MmfastError, match="triple_margins: pos_index holds ids from 1 to 5; wanted 0 to 4"):
        triple_margins(users, items, index, torch.tensor([5, 1]), index)


def test_regularisers_literally():
    users, items = random(6, 4), random(9, 4, seed=1)
    user, pos, neg = torch.tensor([0, 0, 5]), torch.tensor([8, 1, 1]), torch.tensor([2, 2, 3])
    rows = users[user], items[pos], items[neg]
    gathered = (users, user), (items, pos), (items, neg)
    torch.testing.assert_close(frobenius_reg(*gathered), sum(r.norm() for r in rows) / 3)
    torch.testing.assert_close(half_square_reg(8, *gathered), sum(r.square().sum() for r in rows) / 16)
    both = torch.cat([pos, neg])
    want = rows[0].square().mean() + items[both].square().mean() + users.square().mean()
    torch.testing.assert_close(mean_square_reg((users, user), (items, both), (users, None)), want)
    torch.testing.assert_close(frobenius_reg((users, None), (items, None)), (users.norm() + items.norm()) / 9)
    torch.testing.assert_close(half_square_reg(3, (users, None)), users.square().sum() / 6)


def test_regularisers_of_zeros_and_half_precision():
    zero = torch.zeros(3, 2, dtype=torch.bfloat16)
    for reg in (frobenius_reg, mean_square_reg, lambda *pairs: half_square_reg(2, *pairs)):
        value, gradient = value_and_gradients(lambda t, reg=reg: reg((t, None), (t, torch.tensor([1]))), zero)
        assert value.dtype == torch.float32 and value == 0 and not gradient.any()
