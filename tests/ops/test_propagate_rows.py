"""propagate_rows where its rows reach few nodes, so that layers are computed at these alone, there and back."""

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops.csr import CSR
from mmfast.ops.propagate import READOUTS, propagate, propagate_rows
from tests.ops.graphs import assert_exact, table

NODES, ROWS = 4001, torch.tensor([0, 3, 5, 1000, 4000])


def long_chains(dtype=torch.float64, values=True, scales=(True, True)):
    """An operator in which L steps from a row reach few nodes: i has an entry at i + 1, i + 2 and, if odd, i + 70."""
    steps = [torch.arange(NODES), torch.arange(NODES), torch.arange(1, NODES, 2)]
    row = torch.cat(steps)
    col = torch.cat([(step + by) % NODES for step, by in zip(steps, (1, 2, 70), strict=True)])
    value = torch.linspace(-1, 1, len(row), dtype=dtype)
    scale = torch.linspace(0.5, 1.5, NODES, dtype=dtype), torch.linspace(1.5, 0.5, NODES, dtype=dtype)
    scale = tuple(part if given else None for part, given in zip(scale, scales, strict=True))

    def build(row, col, scales):
        order = torch.argsort(row * NODES + col)
        ptr = torch.zeros(NODES + 1, dtype=torch.int64)
        ptr[1:] = torch.bincount(row, minlength=NODES).cumsum(0)
        return CSR(ptr, col[order].int(), value[order] if values else None, *scales)

    return build(row, col, scale), build(col, row, scale[::-1])


def results(csr, transpose, x, rows, num_layers, readout):
    """The rows of the read-out and of x, and the gradients of one and of both."""
    x = x.clone().requires_grad_()
    part, own = propagate_rows(csr, transpose, x, rows, num_layers, readout)
    weight = torch.linspace(-1, 1, part.numel(), dtype=torch.float64).view_as(part).to(part.dtype)
    losses = (part * weight).sum(), (part * weight + 3 * own * weight).sum()
    return [part, own, *(torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses)]


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("num_layers", [2, 3, 6, 60])  # from some way on, 60 layers reach most nodes
@pytest.mark.parametrize("width", [3, 64, 100])
def test_error_is_at_most_twice_that_of_pytorch(num_layers, readout, width):
    csr, transpose = long_chains()
    x = table(NODES, width)
    assert_exact(lambda csr, transpose, x: results(csr, transpose, x, ROWS, num_layers, readout), csr, transpose, x)


KINDS = [(True, (True, True)), (True, (True, False)), (False, (True, True)), (False, (True, False))]


@pytest.mark.parametrize(("values", "scales"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_few_rows_have_the_bits_of_all_rows(dtype, values, scales):
    csr, transpose = long_chains(torch.float32, values, scales)
    x = table(NODES, 72).to(dtype)
    every = torch.arange(NODES)
    for num_layers in (2, 5):
        x.requires_grad_()
        whole = propagate(csr, transpose, x, num_layers)
        part, _ = propagate_rows(csr, transpose, x, ROWS, num_layers)
        assert torch.equal(part, whole[ROWS])
        all_rows, _ = propagate_rows(csr, transpose, x, every, num_layers)
        weight = torch.zeros_like(whole).index_copy_(0, ROWS, torch.ones_like(part))
        few, many = (torch.autograd.grad((out * by).sum(), x)[0] for out, by in ((part, 1), (all_rows, weight)))
        assert torch.equal(few, many)


def test_no_rows_and_rows_without_entries():
    csr, transpose = long_chains()
    x, none = table(NODES, 5), torch.zeros(0, dtype=torch.int64)
    part, own, *grads = results(csr, transpose, x, none, 3, "mean")
    assert part.shape == own.shape == (0, 5)
    assert all(not grad.any() for grad in grads)
    ptr = torch.cat([torch.zeros(7, dtype=torch.int64), csr.ptr])  # seven rows more, without an entry
    scale = torch.ones(NODES + 7, dtype=torch.float64)
    csr, transpose = CSR(ptr, csr.cols, csr.values, scale, scale), CSR(ptr, csr.cols, csr.values, scale, scale)
    for rows in (torch.arange(5), torch.tensor([0, 6])):
        part, own = propagate_rows(csr, transpose, table(NODES + 7, 100), rows, 4, "sum")
        assert torch.equal(part, own)


@pytest.mark.parametrize("node", [3, 4, 8, 2000])  # a row itself, one and two steps from it, and one out of reach
def test_a_column_outside_the_table_is_refused(node):
    csr, transpose = long_chains()
    x, wild = table(NODES, 5), csr.cols.clone()
    wild[csr.ptr[node]] = NODES
    with pytest.raises(MmfastError, match=f"cols holds ids from 0 to {NODES}; wanted 0 to {NODES - 1}"):
        propagate_rows(csr._replace(cols=wild), transpose, x, ROWS, 3)
    wild = transpose.cols.clone()
    wild[-1] = -1
    part, _ = propagate_rows(csr, transpose._replace(cols=wild), x.requires_grad_(), ROWS, 3)
    with pytest.raises(RuntimeError, match=f"cols holds ids from -1 to {NODES - 1}"):
        part.sum().backward()
