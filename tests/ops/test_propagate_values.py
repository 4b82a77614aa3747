"""propagate with learned edge values: their gradient, against float64 and by finite differences."""

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.csr import CSR
from mmfast.ops.propagate import READOUTS, propagate, propagate_rows
from tests.accuracy import assert_at_most_twice
from tests.ops.graphs import operator, some_rows, table

SIZES = [(1, 1, 1), (7, 11, 8), (53, 300, 64), (97, 500, 67), (31, 200, 129)]


def learned(num_nodes, num_entries, num_cols=None, seed=0):
    """An operator without values, its transpose, and the entry behind each entry of the transpose."""
    csr, _ = operator(num_nodes, num_entries, seed=seed, values=False, num_cols=num_cols)
    num_cols = num_cols or num_nodes
    order = torch.argsort(csr.cols.long(), stable=True)
    ptr = torch.zeros(num_cols + 1, dtype=torch.int64)
    ptr[1:] = torch.bincount(csr.cols, minlength=num_cols).cumsum(0)
    return csr, CSR(ptr, csr.rows()[order].int(), None, csr.col_scale, csr.row_scale), order


def pair(csr, transpose, order, values):
    scales = [None if s is None else s.to(values.dtype) for s in csr[3:]]
    return (
        CSR(csr.ptr, csr.cols, values, *scales),
        CSR(transpose.ptr, transpose.cols, values.detach()[order], *scales[::-1]),
    )


def gradients(parts, values, x, num_layers, readout):
    values, x = values.clone().requires_grad_(), x.clone().requires_grad_()
    csr, transpose = pair(*parts, values)
    rows = some_rows(csr.num_rows)
    out = propagate(csr, transpose, x, num_layers, readout)
    part, own = propagate_rows(csr, transpose, x, rows, num_layers, readout)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    losses = (out * weight).sum(), (part * weight[rows]).sum() + own.sum()
    return [grad for loss in losses for grad in torch.autograd.grad(loss, (values, x), retain_graph=True)]


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("num_nodes", "num_entries", "width"), SIZES)
def test_error_is_at_most_twice_that_of_pytorch(num_nodes, num_entries, width, num_layers, readout):
    parts, x = learned(num_nodes, num_entries), table(num_nodes, width)
    values = torch.randn(num_entries, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with use_backend("reference"):
        exact = gradients(parts, values, x, num_layers, readout)
        torch_32 = gradients(parts, values.float(), x.float(), num_layers, readout)
    for ours, want in zip(gradients(parts, values, x, num_layers, readout), exact, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-11, atol=1e-11)
    ours_32 = gradients(parts, values.float(), x.float(), num_layers, readout)
    for ours, theirs, want in zip(ours_32, torch_32, exact, strict=True):
        assert_at_most_twice(ours, theirs, want, roundings=3)  # a sum and the products with two scales


@pytest.mark.parametrize("num_cols", [11, 5, 19])
def test_gradcheck(num_cols):
    parts, x = learned(11, 30, num_cols), table(num_cols, 5).requires_grad_()
    values = torch.rand(30, dtype=torch.float64).requires_grad_()
    layers = [(1, "last"), (2, "mean"), (2, "last")] if num_cols == 11 else [(1, "last")]
    for arguments in layers:
        assert torch.autograd.gradcheck(lambda v, x, a=arguments: propagate(*pair(*parts, v), x, *a), (values, x))


def test_only_the_values_need_a_gradient():
    parts, x = learned(11, 30), table(11, 5)
    values = torch.rand(30, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(propagate(*pair(*parts, values), x, 1, "last").sum(), values)
    csr = parts[0]
    want = csr.row_scale[csr.rows()] * csr.col_scale[csr.cols.long()] * x.sum(1)[csr.cols.long()]
    torch.testing.assert_close(grad, want)
    with torch.no_grad():
        propagate(*pair(*parts, values), x, 3)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_tables_have_float32_gradients_of_values(half):
    parts, x = learned(53, 300), table(53, 64).to(half)
    values = torch.rand(300, requires_grad=True)
    exact = values.detach().double().requires_grad_()
    (grad,) = torch.autograd.grad(propagate(*pair(*parts, values), x, 1, "last", torch.float32).sum(), values)
    with use_backend("reference"):
        (want,) = torch.autograd.grad(propagate(*pair(*parts, exact), x.double(), 1, "last").sum(), exact)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(grad, want.float(), rtol=1e-5, atol=1e-5)


def rounded_layers(csr, x, num_layers, readout, half, dtype):
    """The contract, one layer after another in float64: h <- x + A h, every h rounded once, the last to `dtype`."""
    dense = torch.zeros(csr.num_rows, x.shape[0], dtype=torch.float64)
    dense.index_put_((csr.rows(), csr.cols.long()), csr.values.double(), accumulate=True)
    inputs, layer = [], x.double()
    for _ in range(num_layers):
        inputs.append(layer.to(half).double())
        layer = dense @ inputs[-1] + (0 if readout == "last" else x.double())
    return dense, inputs, (layer / (num_layers + 1) if readout == "mean" else layer).to(dtype)


def rounded_gradients(csr, dense, inputs, readout, half, grad):
    """The gradients of the values and of x by the same contract: a layer's is rounded once, x's sum at the end."""
    to_layer = grad.double() / (len(inputs) + 1) if readout == "mean" else grad.double()
    to_values, to_x = torch.zeros(csr.num_entries, dtype=torch.float64), torch.zeros_like(inputs[0])
    for layer in reversed(inputs):
        to_x = to_x if readout == "last" else to_x + to_layer
        to_product = to_layer.to(half).double()
        to_values += (to_product[csr.rows()] * layer[csr.cols.long()]).sum(1)
        to_layer = (dense.T @ to_product).to(half).double()
    return to_values.float(), (to_x + to_layer).to(half)


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_layers_of_half_tables_are_rounded_once(half, readout, dtype):
    # Small whole numbers over powers of two: float32 sums are exact, and the only rounding is that to half numbers.
    csr, transpose, order = learned(23, 60)
    generator = torch.Generator().manual_seed(5)
    values = (torch.randint(-3, 4, (60,), generator=generator) / 2).requires_grad_()
    x = (torch.randint(-255, 256, (23, 9), generator=generator) / 16).to(half).requires_grad_()
    graph = CSR(csr.ptr, csr.cols, values), CSR(transpose.ptr, transpose.cols, values.detach()[order])
    got = propagate(*graph, x, 3, readout, dtype)
    dense, inputs, want = rounded_layers(graph[0], x.detach(), 3, readout, half, dtype or half)
    assert got.dtype == want.dtype and torch.equal(got, want)
    assert torch.equal(got, propagate(graph[0]._replace(values=values.detach()), graph[1], x, 3, readout, dtype))
    assert not torch.equal(inputs[-1], (dense @ inputs[-2] + x.double()).detach())  # there was something to round
    grad = torch.randint(-15, 16, (23, 9), generator=generator).to(got.dtype)
    found = torch.autograd.grad(got, (values, x), grad)
    for ours, theirs in zip(found, rounded_gradients(graph[0], dense, inputs, readout, half, grad), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs.detach())


def test_tables_side_by_side_add_up():
    parts = learned(23, 90)
    values = torch.rand(90, dtype=torch.float64, requires_grad=True)
    stacked = torch.stack([table(23, 6, seed) for seed in range(3)], 1)
    (together,) = torch.autograd.grad(propagate(*pair(*parts, values), stacked, 1, "last").sum(), values)
    apart = [propagate(*pair(*parts, values), x, 1, "last").sum() for x in stacked.unbind(1)]
    torch.testing.assert_close(together, torch.autograd.grad(sum(apart), values)[0])


def test_compiles_to_one_graph():
    parts, x = learned(11, 30), table(11, 5).requires_grad_()
    values = torch.rand(30, dtype=torch.float64, requires_grad=True)

    def loss(values, x):
        return propagate(*pair(*parts, values), x, 2).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, want in zip(
        torch.autograd.grad(compiled(values, x), (values, x)),
        torch.autograd.grad(loss(values, x), (values, x)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_same_bits_for_any_number_of_threads():
    parts, x = learned(3001, 40_000), table(3001, 64).float()
    values = torch.rand(40_000)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients(parts, values, x, 1, "last"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_messages():
    parts, x = learned(11, 30), table(11, 5)
    values = torch.rand(30, dtype=torch.float64, requires_grad=True)
    csr, transpose = pair(*parts, values)
    graph = (*csr[:3], *transpose[:3], *csr[3:])
    with pytest.raises(MmfastError, match="which goes layer by layer"):
        torch.ops.mmfast.propagate(*graph, x, 2, "mean")
    with pytest.raises(MmfastError, match="propagate_rows: values need a gradient; call the function"):
        torch.ops.mmfast.propagate_rows(*graph, x, torch.tensor([0]), 1, "mean")
    with pytest.raises(RuntimeError, match=r"cols holds ids from .* wanted 0 to 10"):
        torch.ops.mmfast.propagate_values_backward(csr.ptr, csr.cols + 5, None, None, x, x)
    with pytest.raises(RuntimeError, match="grad has size 10 along axis 0; wanted 11"):
        torch.ops.mmfast.propagate_values_backward(csr.ptr, csr.cols, None, None, x[:10], x)
    (grad,) = torch.autograd.grad(propagate(csr, transpose, x, 1, "last").square().sum(), values, create_graph=True)
    with pytest.raises(MmfastError, match="second derivatives are not provided"):
        grad.sum().backward()
