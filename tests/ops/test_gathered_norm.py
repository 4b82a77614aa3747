"""gathered_norm: against the gather, gradients, odd sizes, messages, opcheck."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import gathered_norm, use_backend
from mmfast.ops.gathered_norm import gathered_norm_reference


def case(rows, dim, batch, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows + dim + batch)
    table = torch.randn(rows, dim, generator=generator, dtype=dtype)
    return table, torch.randint(0, rows, (batch,), generator=generator)


@pytest.mark.parametrize("rows", [1, 7, 130])
@pytest.mark.parametrize("dim", [0, 1, 7, 8, 65])
@pytest.mark.parametrize("batch", [0, 1, 257])
def test_equals_the_gather_and_its_gradient(rows, dim, batch):
    table, index = case(rows, dim, batch)
    table.requires_grad_()
    norm = gathered_norm(table, index)
    assert torch.allclose(norm, table[index].norm(), rtol=1e-14)
    (grad,) = torch.autograd.grad(norm * 3, table)
    (want,) = torch.autograd.grad(gathered_norm_reference(table, index) * 3, table)
    assert torch.allclose(grad, want, rtol=1e-12, atol=1e-15)


def test_float32_error_is_at_most_twice_that_of_torch():
    table, index = case(500, 64, 2048)
    exact = gathered_norm_reference(table, index)
    ours = (gathered_norm(table.float(), index).double() - exact).abs()
    theirs = (gathered_norm_reference(table.float(), index).double() - exact).abs()
    assert ours <= 2 * theirs + 1e-7 * exact


def test_gradcheck_opcheck_and_zero_norm():
    table, index = case(9, 5, 20)
    table.requires_grad_()
    assert torch.autograd.gradcheck(gathered_norm, (table, index))
    torch.library.opcheck(torch.ops.mmfast.gathered_norm.default, (table, index))
    norm, counts = torch.ops.mmfast.gathered_norm(table.detach(), index)
    torch.library.opcheck(torch.ops.mmfast.gathered_norm_backward.default, (norm, norm, counts, table.detach()))
    (first,) = torch.autograd.grad(gathered_norm(table, index), table, create_graph=True)
    with pytest.raises(MmfastError, match="gathered_norm: second derivatives are not provided"):
        first.sum().backward()
    zero = torch.zeros(4, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(gathered_norm(zero, torch.tensor([1, 1])), zero)
    assert torch.equal(grad, torch.zeros(4, 3))


@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_a_norm_that_is_no_number_has_the_gradient_of_torch(wild):
    table, index = case(6, 3, 4)
    table[2, 1], index = wild, torch.tensor([1, 2, 2, 4])
    table.requires_grad_()
    (grad,) = torch.autograd.grad(gathered_norm(table, index), table)
    (want,) = torch.autograd.grad(gathered_norm_reference(table, index), table)
    assert torch.equal(grad.isnan(), want.isnan()) and grad.isnan().any()
    assert torch.equal(grad.nan_to_num(), want.nan_to_num())


def test_strided_and_half_precision_tables():
    table, index = case(12, 16, 30, torch.float32)
    strided = table.t().contiguous().t()
    assert torch.equal(gathered_norm(strided, index), gathered_norm(table, index))
    half = table.bfloat16()
    assert torch.equal(gathered_norm(half, index), gathered_norm(half.float(), index))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_messages(backend):
    table, index = case(4, 3, 5)
    with use_backend(backend):
        with pytest.raises(MmfastError, match=r"index is torch.int32 \[5\]; wanted a table \[R, D\] and an int64"):
            gathered_norm(table, index.int())
    with pytest.raises(MmfastError, match="index holds ids from 0 to 4; wanted 0 to 3"):
        gathered_norm(table, torch.tensor([0, 4]))
