"""edge_attention: against float64 with vectors per edge, both results' gradients, GRCN's and EgoGCN's formulas."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import CSR, Edges, edge_attention, edge_gather, propagate
from mmfast.ops._backend import use_backend
from tests.accuracy import assert_at_most_twice


def random_edges(degrees, num_cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ptr = torch.tensor([0, *degrees]).cumsum(0)
    return Edges.of(CSR(ptr, torch.randint(0, num_cols, (int(ptr[-1]),), generator=generator).int()), num_cols)


def tables(edges, width, width_v, choice=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sources = edges.num_cols * (1 if choice is None else 2)
    shapes = ((edges.num_rows, width), (sources, width), (sources, width_v))
    return [torch.randn(*s, dtype=torch.float64, generator=generator) for s in shapes]


def results_and_gradients(edges, q, k, v, scale, choice, seed=2):
    q, k, v = (t.clone().requires_grad_() for t in (q, k, v))
    out, alpha = edge_attention(edges, q, k, v, scale, choice)
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(t.shape, dtype=torch.float64, generator=generator).to(t.dtype) for t in (out, alpha)]
    return [out, alpha, *torch.autograd.grad((out, alpha), (q, k, v), grads)]


def choices(edges, seed=3):
    return torch.rand(edges.cols.numel(), generator=torch.Generator().manual_seed(seed)) > 0.6


CASES = {  # degrees of the rows, columns, D, Dv, chosen
    "nothing": ([], 1, 3, 3, False),
    "no entries": ([0, 0], 5, 3, 3, False),
    "one": ([1], 1, 1, 1, False),
    "degree zero between": ([3, 0, 0, 5], 7, 8, 9, True),
    "one past a chunk": ([0, 129, 128, 1], 11, 64, 64, True),
    "long row": ([1000, 2], 13, 33, 17, False),
    "primes": ([7, 31, 2, 53], 23, 67, 131, True),
}


@pytest.mark.parametrize("name", CASES)
def test_error_is_at_most_twice_that_of_pytorch(name):
    degrees, num_cols, width, width_v, chosen = CASES[name]
    edges = random_edges(degrees, num_cols)
    choice = choices(edges) if chosen else None
    x = tables(edges, width, width_v, choice)
    with use_backend("reference"):
        exact = results_and_gradients(edges, *x, 0.4, choice)
        torch_32 = results_and_gradients(edges, *(t.float() for t in x), 0.4, choice)
    for ours, want in zip(results_and_gradients(edges, *x, 0.4, choice), exact, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-10, atol=1e-12)
    ours_32 = results_and_gradients(edges, *(t.float() for t in x), 0.4, choice)
    for ours, theirs, want in zip(ours_32, torch_32, exact, strict=True):
        # Four: a score's gradient is alpha (g - sum of alpha g), a difference of rounded numbers that are larger.
        assert_at_most_twice(ours, theirs, want, roundings=4)


def test_large_scores_do_not_overflow():
    edges = random_edges([3, 4], 5)
    q, k, v = (t.float() for t in tables(edges, 8, 8))
    out, alpha = edge_attention(edges, 1e3 * q, k, v)
    assert out.isfinite().all() and alpha[:3].sum().item() == pytest.approx(1)


def test_equals_the_formula_in_loops():
    edges = random_edges([2, 0, 3], 4)
    q, k, v = tables(edges, 3, 2)
    out, alpha = edge_attention(edges, q, k, v, 0.5)
    for r in range(3):
        mine = range(int(edges.ptr[r]), int(edges.ptr[r + 1]))
        weights = [torch.exp(0.5 * (q[r] @ k[edges.cols[e]])) for e in mine]
        want = sum((w / sum(weights) * v[edges.cols[e]] for w, e in zip(weights, mine, strict=True)), torch.zeros(2))
        torch.testing.assert_close(out[r], want.double())
        for w, e in zip(weights, mine, strict=True):
            torch.testing.assert_close(alpha[e], w / sum(weights))


@pytest.mark.parametrize("chosen", [False, True])
def test_gradcheck(chosen):
    edges = random_edges([2, 0, 5, 1], 3)
    choice = choices(edges) if chosen else None
    x = [t.requires_grad_() for t in tables(edges, 4, 3, choice)]
    assert torch.autograd.gradcheck(lambda q, k, v: edge_attention(edges, q, k, v, 0.7, choice), x)
    assert torch.autograd.gradcheck(lambda q, k, v: edge_attention(edges, q, k, v, 0.7, choice)[0], x)
    assert torch.autograd.gradcheck(lambda q, k, v: edge_attention(edges, q, k, v, 0.7, choice)[1], x)


def user_item(num_users, num_items, seed=0):
    """Return the edges of a symmetric user-item graph, and its dense matrix."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(num_users, num_items, generator=generator) < 0.3
    size = num_users + num_items
    square = torch.zeros(size, size, dtype=torch.bool)
    square[:num_users, num_users:] = pairs
    square |= square.T.clone()
    rows, cols = square.nonzero(as_tuple=True)
    ptr = torch.zeros(size + 1, dtype=torch.int64)
    ptr[1:] = torch.bincount(rows, minlength=size).cumsum(0)
    return Edges.of(CSR(ptr, cols.int())), square


def dense_softmax(scores, square):
    """Return the softmax over the edges of every row, zeros elsewhere and in rows without edges."""
    return torch.softmax(scores.masked_fill(~square, -1e9), 1) * square


def test_grcn_in_a_few_lines():
    """Routing's attention of two modalities, weights relu(max_m alpha_m K_source), two weighted products of the ids."""
    edges, square = user_item(9, 7)
    generator = torch.Generator().manual_seed(5)
    x_v, x_t, ids = (torch.randn(16, 5, dtype=torch.float64, generator=generator) for _ in range(3))
    confidence = torch.randn(16, 2, dtype=torch.float64, generator=generator)
    inputs = [t.requires_grad_() for t in (x_v, x_t, ids, confidence)]

    heard, alphas = zip(*(edge_attention(edges, x, x, x) for x in (x_v, x_t)), strict=True)
    weights = (torch.stack(alphas, 1) * edge_gather(edges, confidence)).amax(1).relu()
    operator = edges.operator(weights)
    first = propagate(*operator, ids, 1, "last")
    ours = torch.cat([ids + first + propagate(*operator, first, 1, "last"), x_v + heard[0], x_t + heard[1]], 1)

    dense = [dense_softmax(x @ x.T, square) for x in (x_v, x_t)]
    weight = torch.stack([a * c[None] for a, c in zip(dense, confidence.T, strict=True)]).amax(0).relu() * square
    first = weight @ ids
    want = torch.cat([ids + first + weight @ first, x_v + dense[0] @ x_v, x_t + dense[1] @ x_t], 1)
    torch.testing.assert_close(ours, want)
    slope = torch.randn(want.shape, dtype=torch.float64, generator=generator)
    for a, b in zip(*(torch.autograd.grad(y, inputs, slope) for y in (ours, want)), strict=True):
        torch.testing.assert_close(a, b)


def test_egogcn_hard_modulation_in_a_few_lines():
    """Messages are the mean over the modalities where alpha > T, else the modality's own; then attention over them."""
    edges, square = user_item(9, 7, seed=4)
    generator = torch.Generator().manual_seed(5)
    x_v, x_t = (torch.randn(16, 5, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))

    with torch.no_grad():
        _, alpha = edge_attention(edges, x_v, x_v, x_v)
    both = torch.cat([x_v, (x_v + x_t) / 2])
    ours, _ = edge_attention(edges, x_v, both, both, choice=alpha > 0.4)

    strong = dense_softmax(x_v @ x_v.T, square) > 0.4
    assert strong.any()
    message = torch.where(strong[:, :, None], (x_v + x_t)[None] / 2, x_v[None])
    again = dense_softmax((x_v[:, None] * message).sum(2), square)
    want = (again[:, :, None] * message).sum(1)
    torch.testing.assert_close(ours, want)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (x_v, x_t)) for y in (ours, want)), strict=True):
        torch.testing.assert_close(a, b)


def test_strided_and_half_precision_inputs():
    edges = random_edges([5, 2, 9], 6)
    q, k, v = tables(edges, 16, 12)
    want = results_and_gradients(edges, q, k, v, 1.0, None)
    strided = [t.T.contiguous().T for t in (q, k, v)]
    assert all(map(torch.equal, results_and_gradients(edges, *strided, 1.0, None), want))
    half = [t.bfloat16() for t in (q, k, v)]
    out, alpha = edge_attention(edges, *half)
    want = edge_attention(edges, *(t.float() for t in half))
    assert out.dtype == torch.float32 and torch.equal(out, want[0]) and torch.equal(alpha, want[1])


def test_same_bits_for_any_number_of_threads():
    edges = random_edges([3, 300, 0, 41, 1] * 40, 90)
    choice = choices(edges)
    x = [t.float() for t in tables(edges, 40, 24, choice)]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(results_and_gradients(edges, *x, 1.0, choice))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_opcheck_and_one_compiled_graph():
    edges = random_edges([2, 0, 5], 3)
    choice = choices(edges)
    q, k, v = (t.requires_grad_() for t in tables(edges, 4, 3, choice))
    torch.library.opcheck(torch.ops.mmfast.edge_attention.default, (*edges, choice, q, k, v, 0.5))

    def loss(q):
        out, alpha = edge_attention(edges, q, k, v, 0.5, choice)
        return out.square().sum() + alpha.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(q), q), torch.autograd.grad(loss(q), q))


def test_second_derivatives_are_refused():
    edges = random_edges([2, 3], 4)
    q, k, v = (t.requires_grad_() for t in tables(edges, 3, 3))
    (grad,) = torch.autograd.grad(edge_attention(edges, q, k, v)[0].sum(), q, create_graph=True)
    with pytest.raises(MmfastError, match="second derivatives are not provided"):
        grad.sum().backward()


def bad_arguments():
    edges = random_edges([2, 3], 4)
    q, k, v = tables(edges, 3, 3)
    yield r"q is torch.float64 \[1, 3\]; wanted \[2, D\] and floats of q's type", edges, (q[:1], k, v)
    yield r"k is torch.float32 \[4, 3\]; wanted \[4, D\] and floats", edges, (q, k.float(), v)
    yield r"v is torch.float64 \[4\]; wanted \[4, Dv\]", edges, (q, k, v[:, 0])
    yield "wanted the same width", edges, (q, k[:, :2], v)
    yield r"k is torch.float64 \[4, 3\]; wanted \[8, D\]", edges, (q, k, v, 1.0, choices(edges))
    both = torch.cat([k, k])
    yield r"choice is torch.int64 \[5\]; wanted bool \[5\]", edges, (q, both, both, 1.0, choices(edges).long())
    yield "holds ids from -?[0-9]+ to [0-9]+; wanted 0 to 3", edges._replace(cols=edges.cols + 2), (q, k, v)
    yield "holds ids from 7 to 11; wanted 0 to 4", edges._replace(edges_t=edges.edges_t + 7), (q, k, v)
    yield "runs from 0 to 4; wanted from 0 up to the 5 entries", edges._replace(ptr=edges.ptr.clamp(max=4)), (q, k, v)


def test_entries_that_int32_cannot_number_are_refused():
    many, edges = torch.zeros(1, dtype=torch.int32).expand(2**31), random_edges([2, 3], 4)
    refused = f"there are {2**31} entries; wanted less than 2\\^31"
    with pytest.raises(MmfastError, match=f"Edges: {refused}"):
        Edges.of(CSR(torch.tensor([0, 2**31]), many))
    q, k, v = tables(edges, 3, 3)
    with pytest.raises(MmfastError, match=f"edge_attention: {refused}"):
        edge_attention(edges._replace(cols=many), q, k, v)
    alpha, many_edges = torch.ones(5, dtype=q.dtype), edges._replace(cols=many)
    with pytest.raises(RuntimeError, match=f"edge_attention_backward: {refused}"):
        torch.ops.mmfast.edge_attention_backward(*many_edges, None, q, k, v, 1.0, alpha, q, None)


@pytest.mark.parametrize(("message", "edges", "arguments"), list(bad_arguments()))
def test_messages(message, edges, arguments):
    with pytest.raises((MmfastError, RuntimeError), match=message):
        edge_attention(edges, *arguments)


def test_edges_of_a_rectangular_graph():
    csr = CSR(torch.tensor([0, 2, 2, 4]), torch.tensor([4, 0, 4, 1], dtype=torch.int32))
    edges = Edges.of(csr, 5)
    assert edges.num_rows == 3 and edges.num_cols == 5
    assert edges.ptr_t.tolist() == [0, 1, 2, 2, 2, 4]
    assert edges.rows_t.tolist() == [0, 2, 0, 2] and edges.edges_t.tolist() == [1, 3, 0, 2]
    _, transpose = edges.operator(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert transpose.values.tolist() == [2.0, 4.0, 1.0, 3.0]
    with pytest.raises(MmfastError, match="columns run from 0 to 4; wanted 0 to 2"):
        Edges.of(csr)
