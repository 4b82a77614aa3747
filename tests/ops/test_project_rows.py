"""project_rows: against the gather and product, gradients, odd sizes, thread counts, messages, opcheck."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import project_rows, use_backend
from mmfast.ops.project_rows import project_rows_reference
from tests.accuracy import assert_at_most_twice
from tests.kernels import EMULATED

SIZES = [  # items, features, rows, outputs: 0, 1, one past 6 rows, a panel of 8 to 64 outputs, 128 to 256 summed apart
    (5, 3, 0, 4),
    (1, 1, 1, 1),
    (20, 7, 13, 5),
    (40, 17, 7, 17),
    (300, 193, 257, 6),
    (60, 513, 31, 64),
    (20, 130, 13, 65),
    (9, 0, 4, 3),
    (9, 30, 4, 0),
]


def case(items, features, rows, outputs, dtype=torch.float64):
    generator = torch.Generator().manual_seed(items + features + rows + outputs)
    table = torch.randn(items, features, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, features, generator=generator, dtype=dtype)
    return table, torch.randperm(items, generator=generator)[:rows].sort().values, weight


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_product_and_its_gradients(size):
    table, rows, weight = case(*size)
    table.requires_grad_()
    weight.requires_grad_()
    out = project_rows(table, rows, weight)
    want = table[rows] @ weight.t()
    assert torch.allclose(out, want, rtol=1e-12, atol=1e-12)
    seed = torch.randn(want.shape, dtype=want.dtype)
    got = torch.autograd.grad((out * seed).sum(), (table, weight))
    wanted = torch.autograd.grad((want * seed).sum(), (table, weight))
    assert got[0].is_sparse
    for a, b in zip((got[0].to_dense(), got[1]), wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(300, 193, 257, 6), (500, 1100, 400, 64), (300, 193, 257, 65), (70, 300, 61, 130)])
def test_float32_error_is_at_most_twice_that_of_torch(size):
    table, rows, weight = case(*size)
    grad = torch.randn(size[2], size[3], dtype=torch.float64)
    exact = (table[rows] @ weight.t(), grad.t() @ table[rows])
    small = [t.float() for t in (table, weight, grad)]
    ours = (project_rows(small[0], rows, small[1]), torch.ops.mmfast.project_rows_weight(small[2], small[0], rows))
    theirs = (small[0][rows] @ small[1].t(), small[2].t() @ small[0][rows])
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert_at_most_twice(a, b, c)


@pytest.mark.skipif(bool(EMULATED), reason="the CUDA op's product is a library's, on the CPU where it is emulated")
def test_same_bits_for_any_number_of_threads():
    table, rows, weight = case(500, 1100, 401, 64, torch.float32)
    grad = torch.randn(401, 64)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((project_rows(table, rows, weight), torch.ops.mmfast.project_rows_weight(grad, table, rows)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_opcheck_and_reference_backend():
    table, rows, weight = case(20, 7, 13, 5)
    torch.library.opcheck(torch.ops.mmfast.project_rows_weight.default, (torch.randn(13, 5).double(), table, rows))
    for learned in ("none", "weight", "table"):
        inputs = (
            table.clone().requires_grad_(learned == "table"),
            rows,
            weight.clone().requires_grad_(learned == "weight"),
        )
        torch.library.opcheck(torch.ops.mmfast.project_rows.default, inputs)
    with use_backend("reference"):
        assert torch.allclose(project_rows(table, rows, weight), project_rows_reference(table, rows, weight))


def test_messages():
    table, rows, weight = case(20, 7, 13, 5)
    with pytest.raises(MmfastError, match=r"weight is torch.float64 \[5, 6\]; wanted \[I, F\] and \[D, F\]"):
        project_rows(table, rows, weight[:, :6])
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        for backend in ("native", "reference"):
            with (
                use_backend(backend),
                pytest.raises(MmfastError, match=f"are {dtype}; wanted float32 or float64; convert"),
            ):
                project_rows(table.to(dtype), rows, weight.to(dtype))
    with pytest.raises(MmfastError, match=r"rows is torch.int32 \[13\]; wanted int64"):
        project_rows(table, rows.int(), weight)
    with pytest.raises(MmfastError, match="rows holds ids from 3 to 20; wanted 0 to 19"):
        project_rows(table, torch.tensor([3, 20]), weight)
    for wrong in ([4, 3], [3, 3]):
        with pytest.raises(MmfastError, match="rows do not ascend; sort them and leave repeated ones out"):
            project_rows(table, torch.tensor(wrong), weight)
    with pytest.raises(MmfastError, match="table is not contiguous"):
        project_rows(table.t().contiguous().t(), rows, weight)


def test_second_derivatives_are_refused():
    table, rows, weight = case(20, 7, 13, 5)
    weight.requires_grad_()
    (grad,) = torch.autograd.grad(project_rows(table, rows, weight).square().sum(), weight, create_graph=True)
    with pytest.raises(MmfastError, match="project_rows: second derivatives are not provided"):
        grad.sum().backward()
