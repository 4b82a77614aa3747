"""propagate over half tables, over several tables side by side, and under autocast."""

import pytest
import torch

from mmfast.ops._backend import use_backend
from mmfast.ops.propagate import READOUTS, propagate, propagate_reference, propagate_rows
from tests.accuracy import assert_at_most_twice
from tests.ops.graphs import operator, some_rows, table, to

HALVES = [torch.bfloat16, torch.float16]
SIZES = [(1, 0, 1), (1, 1, 3), (7, 11, 8), (53, 300, 64), (97, 500, 67), (31, 200, 136), (257, 3000, 33)]


def dense(csr, dtype):
    matrix = torch.zeros(csr.num_rows, csr.num_rows, dtype=dtype)
    return matrix.index_put((csr.rows(), csr.cols.long()), csr.entries(dtype), accumulate=True)


def by_hand(matrix, x, num_layers, readout):
    """The read-out as eager PyTorch has it in the type of its arguments."""
    layers = [x]
    for _ in range(num_layers):
        layers.append(matrix @ layers[-1])
    if readout == "last":
        return layers[-1]
    total = sum(layers)
    return total / (num_layers + 1) if readout == "mean" else total


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("num_nodes", "num_entries", "width"), SIZES)
@pytest.mark.parametrize("half", HALVES)
def test_half_error_is_at_most_twice_that_of_pytorch(half, num_nodes, num_entries, width, num_layers, readout):
    csr, transpose = operator(num_nodes, num_entries, torch.float32)
    x, rows = table(num_nodes, width).to(half), some_rows(num_nodes)
    exact = propagate_reference(to(csr, torch.float64), x.double(), num_layers, readout)
    torch_half = by_hand(dense(csr, torch.float32).to(half), x, num_layers, readout)
    ours = propagate(csr, transpose, x, num_layers, readout)
    wide = propagate(csr, transpose, x, num_layers, readout, torch.float32)
    assert (ours.dtype, wide.dtype) == (half, torch.float32)
    for table_of_ours in (ours, wide):
        assert_at_most_twice(table_of_ours, torch_half, exact, unit=torch.finfo(half).eps / 4)
    assert torch.equal(wide.to(half), ours)
    for dtype, full in ((None, ours), (torch.float32, wide)):
        part, own = propagate_rows(csr, transpose, x, rows, num_layers, readout, dtype)
        assert torch.equal(part, full[rows])
        assert torch.equal(own, x[rows])


@pytest.mark.parametrize("half", HALVES)
def test_one_half_product_rounds_the_float32_product_once(half):
    csr, transpose = operator(97, 500, torch.float32)
    x = table(97, 67).to(half)
    want = propagate(csr, transpose, x.float(), 1, "mean")
    assert torch.equal(propagate(csr, transpose, x, 1, "mean", torch.float32), want)
    assert torch.equal(propagate(csr, transpose, x, 1, "mean"), want.to(half))


@pytest.mark.parametrize("half", HALVES)
def test_half_keeps_the_special_numbers(half):
    csr = operator(8, 0, torch.float32)[0]._replace(
        ptr=torch.arange(9), cols=torch.arange(8).int(), values=None, row_scale=None, col_scale=None
    )
    tiny, most = torch.finfo(half).smallest_normal, torch.finfo(half).max
    numbers = torch.tensor([0.0, -0.0, tiny, tiny / 4, most, -most, float("inf"), float("-inf")])
    x = numbers.to(half).repeat(20, 1).T.contiguous()
    x[0, 3] = float("nan")
    out = propagate(csr, csr, x, 1, "last")
    assert out[0, 3].isnan()
    assert torch.equal(out.nan_to_num(7.0, 8.0, 9.0), x.nan_to_num(7.0, 8.0, 9.0))
    wide = propagate(csr, csr, x, 1, "last", torch.float32)
    assert torch.equal(wide.nan_to_num(7.0), x.float().nan_to_num(7.0))


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("half", HALVES)
def test_half_gradients(half, dtype):
    csr, transpose = operator(97, 500, torch.float32)
    x, rows = table(97, 64).to(half).requires_grad_(), some_rows(97)
    exact_x = x.detach().double().requires_grad_()
    exact = propagate_reference(to(csr, torch.float64), exact_x, 2)
    weight = table(97, 64, seed=5)
    part, own = propagate_rows(csr, transpose, x, rows, 2, "mean", dtype)
    pairs = [
        ((propagate(csr, transpose, x, 2, "mean", dtype) * weight).sum(), (exact * weight).sum()),
        ((part * weight[rows]).sum() + own.sum(), (exact[rows] * weight[rows]).sum() + exact_x[rows].sum()),
    ]
    for ours, want in pairs:
        (grad,), (want,) = torch.autograd.grad(ours, x), torch.autograd.grad(want, exact_x, retain_graph=True)
        assert grad.dtype == half
        assert (grad.double() - want).abs().max() <= 4 * torch.finfo(half).eps * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
@pytest.mark.parametrize("width", [3, 24, 64])
def test_tables_side_by_side_are_separate_calls_bit_by_bit(width, dtype):
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    csr, transpose = operator(97, 900, sums)
    rows = some_rows(97)
    stacked = torch.stack([table(97, width, seed).to(dtype) for seed in range(3)], 1).requires_grad_()
    alone = [x.detach().contiguous().requires_grad_() for x in stacked.unbind(1)]
    weight = torch.linspace(-1, 1, 97 * width).view(97, 1, width).to(dtype)

    for readout in READOUTS:
        full = propagate(csr, transpose, stacked, 2, readout)
        part, own = propagate_rows(csr, transpose, stacked, rows, 2, readout)
        assert full.shape == stacked.shape
        grads = torch.autograd.grad((full * weight).sum() + (part * weight[rows]).sum() + own.sum(), stacked)[0]
        for index, x in enumerate(alone):
            one = propagate(csr, transpose, x, 2, readout)
            one_part, one_own = propagate_rows(csr, transpose, x, rows, 2, readout)
            loss = (one * weight[:, 0]).sum() + (one_part * weight[rows, 0]).sum() + one_own.sum()
            assert torch.equal(full[:, index], one)
            assert torch.equal(part[:, index], one_part)
            assert torch.equal(own[:, index], one_own)
            assert torch.equal(grads[:, index], torch.autograd.grad(loss, x)[0])
    with use_backend("reference"):
        torch.testing.assert_close(propagate(csr, transpose, stacked, 2), propagate(csr, transpose, stacked, 2))


def test_runs_under_autocast():
    csr, transpose = operator(31, 200, torch.float32)
    x, weight = table(31, 16).float().requires_grad_(), table(16, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = propagate(csr, transpose, x @ weight, 2)
        kept = propagate(csr, transpose, x, 2)
    assert (out.dtype, kept.dtype) == (torch.bfloat16, torch.float32)
    (grad,) = torch.autograd.grad(out.float().square().sum(), x)
    assert grad.dtype == torch.float32
    assert grad.isfinite().all()


@pytest.mark.parametrize("half", HALVES)
def test_half_has_the_same_bits_for_any_number_of_threads(half):
    csr, transpose = operator(3001, 40_000, torch.float32)
    x = table(3001, 64).to(half)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(propagate(csr, transpose, x, 3))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_side_by_side_rows_compile_to_one_graph():
    csr, transpose = operator(31, 200, torch.float32)
    x, rows = table(31, 12).bfloat16().view(31, 3, 4).requires_grad_(), some_rows(31)

    def loss(x):
        part, own = propagate_rows(csr, transpose, x, rows, 2, "mean", torch.float32)
        return part.square().sum() + own.float().sum() + propagate(csr, transpose, x, 1, "last").float().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(x), x)[0], torch.autograd.grad(loss(x), x)[0])
