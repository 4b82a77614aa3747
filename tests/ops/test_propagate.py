"""propagate and propagate_rows: against float64, gradients, awkward sizes, threads, compiled graphs, messages."""

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.propagate import READOUTS, propagate, propagate_reference, propagate_rows, propagate_rows_reference
from tests.ops.graphs import assert_exact, operator, some_rows, table, to

SIZES = [  # nodes, entries, width
    *[(1, 0, 1), (1, 1, 3), (7, 11, 8), (53, 300, 64), (97, 500, 67), (31, 200, 128), (257, 3000, 33)],
    *[(3, 1000, 17), (5, 3000, 64), (3, 4000, 260)],  # rows of hundreds of entries
]


def outputs(csr, transpose, x, rows, num_layers, readout):
    """Both ops' values and every gradient: of the table, of its rows, with and without the rows of x itself."""
    x = x.clone().requires_grad_()
    full = propagate(csr, transpose, x, num_layers, readout)
    part, own = propagate_rows(csr, transpose, x, rows, num_layers, readout)
    weight = torch.linspace(-1, 1, full.numel(), dtype=x.dtype).view_as(full)
    losses = (full * weight).sum(), (part * weight[rows]).sum(), (own * weight[rows]).sum()
    losses += (losses[1] + 3 * losses[2],)
    return [full, part, own, *(torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses)]


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
@pytest.mark.parametrize(("num_nodes", "num_entries", "width"), SIZES)
def test_error_is_at_most_twice_that_of_pytorch(num_nodes, num_entries, width, num_layers, readout):
    csr, transpose = operator(num_nodes, num_entries)
    x, rows = table(num_nodes, width), some_rows(num_nodes)
    assert_exact(lambda csr, transpose, x: outputs(csr, transpose, x, rows, num_layers, readout), csr, transpose, x)


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("scales", [True, False])
def test_missing_values_and_scales_are_ones(values, scales):
    csr, transpose = operator(41, 200, values=values, scales=scales)
    x = table(41, 9)
    dense = torch.zeros(41, 41, dtype=torch.float64)
    dense.index_put_((csr.rows(), csr.cols.long()), csr.entries(torch.float64), accumulate=True)
    torch.testing.assert_close(propagate(csr, transpose, x, 2, "sum"), x + dense @ x + dense @ (dense @ x))


@pytest.mark.parametrize("readout", READOUTS)
def test_gradcheck(readout):
    csr, transpose = operator(11, 30)
    x = table(11, 5).requires_grad_()
    rows = torch.tensor([0, 2, 9])
    assert torch.autograd.gradcheck(lambda x: propagate(csr, transpose, x, 2, readout), x)
    assert torch.autograd.gradcheck(lambda x: propagate_rows(csr, transpose, x, rows, 2, readout), x)


def test_opcheck():
    csr, transpose = operator(11, 30)
    graph = (*csr[:3], *transpose[:3], *csr[3:])
    rows, x = torch.tensor([0, 2, 9]), table(11, 5)
    torch.library.opcheck(torch.ops.mmfast.propagate.default, (*graph, x.requires_grad_(), 2, "mean"))
    torch.library.opcheck(torch.ops.mmfast.propagate_rows.default, (*graph, x, rows, 2, "mean"))
    x = x.detach()
    torch.library.opcheck(torch.ops.mmfast.propagate_backward.default, (*transpose, x[:3], None, rows, 11, 1, "sum"))
    torch.library.opcheck(torch.ops.mmfast.propagate_values_backward.default, (*csr[:2], *csr[3:], x, x))
    torch.library.opcheck(torch.ops.mmfast.propagate_step.default, (*csr, x, x, 0.5))


def test_compiles_to_one_graph():
    csr, transpose = operator(11, 30)
    graph = (*csr[:3], *transpose[:3], *csr[3:])
    rows, x = torch.tensor([0, 2, 9]), table(11, 5).requires_grad_()

    def loss(x):
        return sum(y.square().sum() for y in torch.ops.mmfast.propagate_rows(*graph, x, rows, 2, "mean"))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(loss(x), x))


def test_same_bits_for_any_number_of_threads():
    csr, transpose = operator(3001, 40_000, torch.float32)
    x, rows = table(3001, 64).float(), some_rows(3001)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outputs(csr, transpose, x, rows, 3, "mean"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_tables_larger_than_the_caches():
    csr, transpose = operator(140_001, 180_000, torch.float32)
    x = table(140_001, 64).float()
    reference = propagate_reference(to(csr, torch.float64), x.double(), 2).float()
    torch.testing.assert_close(propagate(csr, transpose, x, 2), reference, rtol=1e-5, atol=1e-6)
    wide = torch.cat([x, x], 1).bfloat16()
    halves = propagate(csr, transpose, wide, 1, "last")
    assert torch.equal(halves, propagate(csr, transpose, wide.float(), 1, "last").bfloat16())
    assert torch.equal(halves[:, :64], propagate(csr, transpose, wide[:, :64], 1, "last"))


def test_strided_input_and_empty_rows():
    csr, transpose = operator(23, 80)
    x = table(8, 23).T
    torch.testing.assert_close(propagate(csr, transpose, x, 2), propagate_reference(csr, x, 2))
    nothing = torch.empty(0, dtype=torch.int64)
    x = x.clone().requires_grad_()
    part, own = propagate_rows(csr, transpose, x, nothing, 2)
    assert part.shape == own.shape == (0, 8)
    (grad,) = torch.autograd.grad(part.sum() + own.sum(), x)
    assert not grad.any()


@pytest.mark.parametrize("num_cols", [7, 90])
def test_operators_that_are_not_square(num_cols):
    csr, transpose = operator(41, 200, num_cols=num_cols)
    x, rows = table(num_cols, 9).requires_grad_(), torch.tensor([0, 1, 30])
    want = propagate_reference(csr, x, 1, "last")
    got = propagate(csr, transpose, x, 1, "last")
    part, own = propagate_rows(csr, transpose, x, rows, 1, "last")
    assert got.shape == (41, 9)
    assert own.shape == (0, 9)
    assert torch.equal(part, got[rows])
    torch.testing.assert_close(got, want)
    weight = table(41, 9, seed=3)
    for ours, theirs, factor in ((got, want, weight), (part, want[rows], weight[rows])):
        grads = [torch.autograd.grad((y * factor).sum(), x, retain_graph=True)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*grads)
    with use_backend("reference"):
        assert propagate_rows(csr, transpose, x, rows, 1, "last")[1].shape == (0, 9)


@pytest.mark.parametrize("readout", READOUTS)
def test_no_nodes_and_no_entries(readout):
    csr, transpose = operator(4, 0)
    x = table(4, 3)
    torch.testing.assert_close(propagate(csr, transpose, x, 2, readout), propagate_reference(csr, x, 2, readout))
    nothing = csr._replace(ptr=csr.ptr[:1], values=None, row_scale=None, col_scale=None)
    assert propagate(nothing, nothing, x[:0], 2, readout).shape == (0, 3)
    assert propagate(csr, transpose, x[:, :0], 2, readout).shape == (4, 0)


def test_no_layers_returns_a_copy():
    csr, transpose = operator(5, 9)
    x = table(5, 3)
    assert propagate(csr, transpose, x, 0).data_ptr() != x.data_ptr()


def test_second_derivatives_are_refused():
    csr, transpose = operator(5, 9)
    x = table(5, 3).requires_grad_()
    (grad,) = torch.autograd.grad(propagate(csr, transpose, x.square(), 2).square().sum(), x, create_graph=True)
    with pytest.raises(MmfastError, match="second derivatives are not provided"):
        grad.sum().backward()


def bad_arguments():
    csr, transpose = operator(5, 9)
    x = table(5, 3)
    yield "readout is 'best'; choose one of mean, sum, last", (csr, transpose, x, 2, "best")
    yield "num_layers is -1; choose 0 or more", (csr, transpose, x, -1)
    yield "num_layers is 2.0; wanted a whole number", (csr, transpose, x, 2.0)
    yield r"x is \[4, 3\]; wanted \[5, D\], a row for every column", (csr, transpose, x[:4], 2)
    yield "pass its transpose", (csr, operator(5, 8)[1], x, 2)
    yield "give both their values, or neither", (csr, transpose._replace(values=None), x, 2)
    yield "not those of the graph swapped", (csr, csr, x, 2)
    yield "ptr is on cpu, x on meta; move both to one device", (csr, transpose, x.to("meta"), 2)
    yield "x is torch.int64; wanted one of torch.float32, torch.float64, torch.bfloat16", (csr, transpose, x.long(), 2)
    yield "dtype is torch.float32 for a table of torch.float64", (csr, transpose, x, 2, "mean", torch.float32)
    yield "dtype is torch.bfloat16 for a table of torch.float32", (csr, transpose, x.float(), 2, "mean", torch.bfloat16)
    yield "propagate: values is Double; wanted Float", (csr, transpose, x.half(), 2)
    flat = operator(5, 9, num_cols=7)
    yield (
        "the graph is 5 x 7, which is not square; pass its transpose, and choose num_layers=1",
        (*flat, table(7, 3), 2),
    )
    yield r"x is \[5, 3\]; wanted \[7, D\], a row for every column", (*flat, x, 1, "last")
    yield "propagate: values is Double; wanted Float", (csr, transpose, x.float(), 2)
    wild = csr._replace(cols=csr.cols + 1)
    yield "cols holds ids from . to 5; wanted 0 to 4", (wild, transpose, x, 2)
    yield "cols is Long; wanted Int", (csr._replace(cols=csr.cols.long()), transpose, x, 2)
    yield (
        "ptr runs from 0 to 9; wanted from 0 up to the 8 entries",
        (
            csr._replace(cols=csr.cols[:8], values=csr.values[:8]),
            transpose._replace(cols=csr.cols[:8], values=csr.values[:8]),
            x,
            2,
        ),
    )
    falling = csr.ptr.clone()
    falling[1] = 9
    falling[2] = 0
    yield "never falling", (csr._replace(ptr=falling), transpose, x, 2)


@pytest.mark.parametrize(("message", "arguments"), list(bad_arguments()))
def test_messages(message, arguments):
    with pytest.raises(MmfastError, match=message):
        propagate(*arguments)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_rows_must_be_sorted_and_unique(backend):
    csr, transpose = operator(5, 9)
    with use_backend(backend):
        for rows in ([1, 1], [2, 0]):
            with pytest.raises(MmfastError, match="not sorted and unique; take them from compact_ids"):
                propagate_rows(csr, transpose, table(5, 3), torch.tensor(rows), 1)
        with pytest.raises(MmfastError, match="wanted int64"):
            propagate_rows(csr, transpose, table(5, 3), torch.tensor([0], dtype=torch.int32), 1)
    with pytest.raises(MmfastError, match="rows holds ids from 0 to 5; wanted 0 to 4"):
        propagate_rows(csr, transpose, table(5, 3), torch.tensor([0, 5]), 1)


def test_rows_reference_is_the_reference():
    csr, _ = operator(11, 30)
    x, rows = table(11, 5), torch.tensor([0, 2, 9])
    part, own = propagate_rows_reference(csr, x, rows, 2)
    assert torch.equal(part, propagate_reference(csr, x, 2)[rows])
    assert torch.equal(own, x[rows])
