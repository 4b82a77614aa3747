"""template_op: against the reference, gradients, odd sizes, strides, half precision, messages, opcheck, compiled."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import use_backend
from mmfast.ops.template_op import template_op
from tests.accuracy import assert_as_accurate_as_torch, value_and_gradients


def table(rows, dim):
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(rows + dim))


@pytest.mark.parametrize("rows", [0, 1, 7, 65_537])
@pytest.mark.parametrize("dim", [0, 1, 9])
def test_equals_the_reference(rows, dim):
    assert_as_accurate_as_torch(template_op, table(rows, dim), roundings=0)


def test_gradcheck_and_opcheck():
    x = table(7, 3).requires_grad_()
    assert torch.autograd.gradcheck(template_op, x)
    assert torch.autograd.gradgradcheck(template_op, x)
    torch.library.opcheck(torch.ops.mmfast.template_op.default, (x,))


def test_the_result_is_a_contiguous_copy_of_any_strides():
    x = table(9, 7)
    for given in (x, x.t(), x[:, ::2]):
        got = template_op(given)
        assert torch.equal(got, given) and got.is_contiguous() and got.data_ptr() != given.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = table(5, 3).to(dtype)
    got = template_op(x)
    assert got.dtype == torch.float32 and torch.equal(got, x.float())


def test_one_compiled_graph():
    compiled = torch.compile(template_op, fullgraph=True, backend="aot_eager")
    x = table(13, 9)
    for ours, want in zip(value_and_gradients(compiled, x), value_and_gradients(template_op, x), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_messages(backend):
    with use_backend(backend):
        with pytest.raises(MmfastError, match=r"x is torch.float32 \[4\]; wanted floating point \[R, D\]"):
            template_op(torch.ones(4))
        with pytest.raises(MmfastError, match=r"x is torch.int64 \[1, 2\]; wanted floating point \[R, D\]"):
            template_op(torch.ones(1, 2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="template_op: x is Long; wanted Float or Double"):
        torch.ops.mmfast.template_op(torch.ones(1, 2, dtype=torch.int64))
