"""edge_softmax, edge_gather, edge_sum: against float64, gradients, threads, messages."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import CSR, Edges, edge_gather, edge_softmax, edge_sum
from mmfast.ops._backend import use_backend


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ptr_of(*degrees):
    return torch.tensor([0, *degrees]).cumsum(0)


def random_edges(*degrees, num_cols=6):
    ptr = ptr_of(*degrees)
    generator = torch.Generator().manual_seed(0)
    return Edges.of(CSR(ptr, torch.randint(0, num_cols, (int(ptr[-1]),), generator=generator).int()), num_cols)


def softmax_and_gradient(ptr, logits):
    logits = logits.clone().requires_grad_()
    alpha = edge_softmax(ptr, logits)
    return [alpha, *torch.autograd.grad(alpha, logits, random(*logits.shape, seed=9).to(alpha.dtype))]


@pytest.mark.parametrize("heads", [(), (1,), (3,)])
@pytest.mark.parametrize("degrees", [(), (0, 0), (1,), (3, 0, 5, 7), (257, 1, 0, 33)])
def test_softmax_error_is_at_most_twice_that_of_pytorch(degrees, heads):
    ptr = ptr_of(*degrees)
    logits = random(sum(degrees), *heads).float().double()  # the same numbers for both precisions
    with use_backend("reference"):
        exact, torch_32 = softmax_and_gradient(ptr, logits), softmax_and_gradient(ptr, logits.float())
    for ours, want in zip(softmax_and_gradient(ptr, logits), exact, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-12, atol=1e-15)
    for ours, theirs, want in zip(softmax_and_gradient(ptr, logits.float()), torch_32, exact, strict=True):
        if want.numel():
            assert (ours - want).square().mean() <= 4 * (theirs - want).square().mean() + 1e-15 * want.square().mean()


def test_softmax_equals_the_dense_one_and_bears_large_logits():
    logits = torch.tensor([1e4, -1e4, 3.0, 3.0])
    alpha = edge_softmax(torch.tensor([0, 2, 4]), logits)
    assert alpha.tolist() == [1.0, 0.0, 0.5, 0.5]
    x = random(4, 3)
    torch.testing.assert_close(edge_softmax(torch.tensor([0, 4]), x), torch.softmax(x, 0))


def test_softmax_gradcheck_half_precision_and_second_derivatives():
    ptr = ptr_of(2, 0, 4)
    logits = random(6, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: edge_softmax(ptr, x), logits)
    assert torch.equal(edge_softmax(ptr, logits.half()), edge_softmax(ptr, logits.half().float()))
    (grad,) = torch.autograd.grad(edge_softmax(ptr, logits)[:, 0].square().sum(), logits, create_graph=True)
    with pytest.raises(MmfastError, match="edge_softmax: second derivatives are not provided"):
        grad.sum().backward()
    alpha = edge_softmax(ptr, logits.detach())
    torch.library.opcheck(torch.ops.mmfast.edge_softmax_backward.default, (ptr, alpha, alpha))


def test_gather_and_sum_are_each_other_s_transpose():
    edges = random_edges(3, 0, 150, 1)
    table, values = random(6, 3), random(154, 3, seed=1)
    gathered, sums = edge_gather(edges, table), edge_sum(edges, values)
    assert torch.equal(gathered, table[edges.cols])
    torch.testing.assert_close(sums, torch.zeros_like(table).index_add(0, edges.cols, values))
    torch.testing.assert_close((gathered * values).sum(), (table * sums).sum())
    with use_backend("reference"):
        torch.testing.assert_close(edge_sum(edges, values), sums)
        assert torch.equal(edge_gather(edges, table), gathered)


def test_gather_and_sum_gradcheck():
    edges = random_edges(3, 0, 5)
    assert torch.autograd.gradcheck(lambda t: edge_gather(edges, t), random(6, 2).requires_grad_())
    assert torch.autograd.gradcheck(lambda t: edge_sum(edges, t), random(8, 2).requires_grad_())
    assert torch.autograd.gradgradcheck(lambda t: edge_gather(edges, t).square(), random(6, 2).requires_grad_())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_numbers_are_gathered_and_summed_in_float32(half):
    edges = random_edges(3, 0, 150, 1)
    for op, x in ((edge_gather, random(6, 3)), (edge_sum, random(154, 3))):
        narrow = x.to(half).requires_grad_()
        got = op(edges, narrow)
        assert got.dtype == torch.float32 and torch.equal(got, op(edges, narrow.detach().float()))
        (grad,) = torch.autograd.grad(got.square().sum(), narrow)
        assert grad.dtype == half
        with use_backend("reference"):
            torch.testing.assert_close(op(edges, narrow), got)


@pytest.mark.parametrize("width", [0, 1, 2, 5])
def test_empty_graphs_and_columns_without_entries(width):
    edges = random_edges(0, 0)
    assert edge_gather(edges, random(6, width)).shape == (0, width)
    assert torch.equal(edge_sum(edges, random(0, width)), torch.zeros(6, width, dtype=torch.float64))


def test_same_bits_for_any_number_of_threads():
    edges = random_edges(*[40, 0, 300, 7] * 60, num_cols=9000)
    logits, table = random(edges.cols.numel(), 2).float(), random(9000, 2).float()
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            pair = edge_gather(edges, table), edge_sum(edges, logits)
            results.append([*softmax_and_gradient(edges.ptr, logits), *pair])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_opcheck_and_one_compiled_graph():
    edges = random_edges(3, 0, 5)
    logits, table = random(8, 2).requires_grad_(), random(6, 2).requires_grad_()
    lists = (edges.cols, edges.ptr_t, edges.edges_t)
    torch.library.opcheck(torch.ops.mmfast.edge_softmax.default, (edges.ptr, logits))
    torch.library.opcheck(torch.ops.mmfast.edge_gather.default, (*lists, table))
    torch.library.opcheck(torch.ops.mmfast.edge_sum.default, (*lists, logits))

    def loss(table):
        return edge_sum(edges, edge_softmax(edges.ptr, edge_gather(edges, table))).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(table), table), torch.autograd.grad(loss(table), table))


def bad_calls():
    edges = random_edges(3, 2)
    yield r"logits is torch.int64 \[5\]; wanted floats", lambda: edge_softmax(edges.ptr, torch.ones(5).long())
    yield r"logits is torch.float32 \[\]; wanted floats", lambda: edge_softmax(edges.ptr, torch.tensor(1.0))
    yield "runs from 0 to 5; wanted from 0 up to the 4 entries", lambda: edge_softmax(edges.ptr, torch.ones(4))
    yield (
        r"table is torch.float32 \[5, 1\]; wanted floats \[6, H\]",
        lambda: edge_gather(edges, torch.ones(5, 1)),
    )
    yield r"values is torch.int64 \[5, 1\]; wanted floats", lambda: edge_sum(edges, torch.ones(5, 1).long())


@pytest.mark.parametrize(("message", "call"), list(bad_calls()))
def test_messages(message, call):
    with pytest.raises((MmfastError, RuntimeError), match=message):
        call()
