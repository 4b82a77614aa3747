"""A table used whole and in parts: the gradient is that of the split table, whatever of it is used."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from mmfast.embeddings import whole_and_parts

USES = [use for count in range(4) for use in combinations(range(3), count)]


@pytest.mark.parametrize("use", USES)
def test_gradients_of_whole_and_parts_add_up(use):
    torch.manual_seed(0)
    table = torch.randn(7, 3, requires_grad=True)
    weights = [torch.randn(n, 3) for n in (7, 4, 3)]
    views = whole_and_parts(table, [4, 3])
    assert all(torch.equal(view, one) for view, one in zip(views, (table, table[:4], table[4:]), strict=True))
    if not use:
        return
    sum((views[n] ** 2 * weights[n]).sum() for n in use).backward()
    wanted = torch.zeros(7, 3)
    for n in use:
        rows = (slice(None), slice(4), slice(4, None))[n]
        wanted[rows] += 2 * weights[n] * table.detach()[rows]
    torch.testing.assert_close(table.grad, wanted)


def test_a_gradient_given_is_not_written_to():
    table = torch.randn(5, 2, requires_grad=True)
    whole, _, last = whole_and_parts(table, [3, 2])
    grads = [torch.ones(5, 2), torch.ones(2, 2)]
    torch.autograd.backward([whole, last], grads)
    assert grads[0].eq(1).all() and grads[1].eq(1).all()
    assert table.grad.tolist() == [[1, 1]] * 3 + [[2, 2]] * 2


def test_second_derivatives_are_refused():
    table = torch.randn(5, 2, requires_grad=True)
    whole, first, _ = whole_and_parts(table, [3, 2])
    (grad,) = torch.autograd.grad((whole**2).sum() + (first**3).sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
