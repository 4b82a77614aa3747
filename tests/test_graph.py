"""Graphs by name: every normalisation against its formula on a dense matrix, blocks, edge values, devices."""

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.graph import (
    DEGREE_EPS,
    cosine_neighbour_graph,
    directed_graph,
    drop_entries,
    edge_graph,
    keep_edges,
    mixed_neighbour_graph,
    subgraph,
    user_item_block,
    user_item_graph,
)

NUM_USERS, NUM_ITEMS = 7, 5


def pairs():
    """Sorted pairs; user 3 and item 4 have none."""
    rng = np.random.default_rng(0)
    chosen = rng.random((NUM_USERS, NUM_ITEMS)) < 0.5
    chosen[3], chosen[:, 4] = False, False
    return np.nonzero(chosen)


def dense(csr, num_cols):
    matrix = torch.zeros(csr.num_rows, num_cols, dtype=torch.float64)
    return matrix.index_put((csr.rows(), csr.cols.long()), csr.entries(torch.float64), accumulate=True)


def inverse(x):
    return np.divide(1.0, x, out=np.zeros_like(x), where=x > 0)


def adjacency():
    users, items = pairs()
    matrix = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    matrix[users, NUM_USERS + items] = 1.0
    return matrix + matrix.T


def normalised(norm, matrix):
    rows, cols = matrix.sum(1), matrix.sum(0)
    if norm == "rw":
        looped = matrix + np.eye(len(matrix))
        return looped / looped.sum(1, keepdims=True)
    if norm == "mean":
        return inverse(rows)[:, None] * matrix
    if norm == "plain":
        return matrix
    eps = DEGREE_EPS if norm == "sym" else 0.0
    return inverse(np.sqrt(rows + eps))[:, None] * matrix * inverse(np.sqrt(cols + eps))


def check(graph, want):
    """The operator, its transpose, a product and its gradient."""
    want = torch.from_numpy(want)
    rows, cols = want.shape
    torch.testing.assert_close(dense(graph.csr, cols), want, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(dense(graph.transpose, rows), want.T, rtol=1e-6, atol=1e-7)
    x = torch.randn(cols, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    out = graph.propagate(x, 1, "last")
    torch.testing.assert_close(out, (want @ x.double()).float(), rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(grad, 2 * (want.T @ (want @ x.double())).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["sym", "sym0", "rw", "mean", "plain"])
def test_user_item_graph(norm):
    graph = user_item_graph(*pairs(), NUM_USERS, NUM_ITEMS, norm)
    check(graph, normalised(norm, adjacency()))
    assert graph.symmetric == (norm in ("sym", "sym0", "plain"))
    assert graph.num_nodes == NUM_USERS + NUM_ITEMS
    if norm != "rw":
        assert all(
            np.array_equal(a, b) for a, b in zip(graph.edges(), (pairs()[0], NUM_USERS + pairs()[1]), strict=True)
        )


@pytest.mark.parametrize("rows", ["users", "items"])
@pytest.mark.parametrize("norm", ["sym", "sym0", "mean", "plain"])
def test_user_item_block(norm, rows):
    matrix = adjacency()[:NUM_USERS, NUM_USERS:]
    block = user_item_block(*pairs(), NUM_USERS, NUM_ITEMS, norm, rows)
    check(block, normalised(norm, matrix if rows == "users" else matrix.T))


def test_the_block_is_a_corner_of_the_graph():
    whole = dense(user_item_graph(*pairs(), NUM_USERS, NUM_ITEMS, "sym0").csr, NUM_USERS + NUM_ITEMS)
    block = user_item_block(*pairs(), NUM_USERS, NUM_ITEMS)
    torch.testing.assert_close(dense(block.csr, NUM_ITEMS), whole[:NUM_USERS, NUM_USERS:])


def test_graphs_without_pairs():
    nothing = np.empty(0, dtype=np.int32)
    for norm in ("sym", "sym0", "rw", "mean", "plain"):
        want = np.eye(12) if norm == "rw" else np.zeros((12, 12))
        check(user_item_graph(nothing, nothing, 7, 5, norm), want)
    check(user_item_block(nothing, nothing, 7, 5), np.zeros((7, 5)))


def test_subgraph_counts_degrees_among_the_kept_edges():
    graph = user_item_graph(*pairs(), NUM_USERS, NUM_ITEMS)
    kept = keep_edges(graph, 0.5, seed=3)
    users, items = (ends[kept] for ends in pairs())
    matrix = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    matrix[users, NUM_USERS + items] = 1.0
    check(subgraph(graph, kept), normalised("sym", matrix + matrix.T))


def test_neighbour_graphs():
    neighbours = np.array([[0, 1], [1, 2], [2, -1], [3, 0]])
    binary = np.zeros((4, 4))
    for row, ids in enumerate(neighbours):
        binary[row, ids[ids >= 0]] = 1.0
    mean = binary / (binary.sum(1, keepdims=True) + DEGREE_EPS)
    other = np.array([[0, 2], [1, 0], [2, 3], [3, 1]])
    mixed = 0.25 * mean
    for row, ids in enumerate(other):
        mixed[row, ids] += 0.75 / (2 + DEGREE_EPS)
    check(mixed_neighbour_graph({"image": neighbours}, {"image": 1.0}, 4), mean)
    check(mixed_neighbour_graph({"image": neighbours, "text": other}, {"image": 0.25, "text": 0.75}, 4), mixed)

    cosines = np.array([[1.0, 0.5], [1.0, -0.25], [1.0, 9.0], [0.0, 0.0]])
    weights = np.zeros((4, 4))
    for row, ids in enumerate(neighbours):
        weights[row, ids[ids >= 0]] = cosines[row][ids >= 0]
    scale = inverse(np.sqrt(weights.sum(1)))
    check(cosine_neighbour_graph(neighbours, cosines, 4), scale[:, None] * weights * scale)
    with pytest.raises(MmfastError, match="the cosines of item 1 add up to -1; wanted sums of 0 or more"):
        cosine_neighbour_graph(neighbours, np.array([[1.0, 0.5], [1.0, -2.0], [1.0, 9.0], [0.0, 0.0]]), 4)


def test_entries_of_one_place_add_up():
    graph = directed_graph(np.array([1, 0, 1]), np.array([0, 2, 0]), np.array([0.5, 2.0, 0.25]), 3)
    check(graph, np.array([[0.0, 0.0, 2.0], [0.75, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_edge_values_with_a_gradient():
    rows, cols = np.array([2, 0, 1, 0]), np.array([1, 3, 0, 1])
    graph = edge_graph(rows, cols, 3, 4)
    plain = np.zeros((3, 4))
    plain[rows, cols] = 1.0
    check(graph, plain)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    place = (torch.tensor([0, 0, 1, 2]), torch.tensor([3, 1, 0, 1]))  # by row, the entries of a row as given
    matrix = torch.zeros(3, 4).index_put(place, values)
    out = graph.propagate(x, 1, "last", values=values)
    torch.testing.assert_close(out, matrix @ x)
    got, want = (torch.autograd.grad(y.square().sum(), (values, x)) for y in (out, matrix @ x))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(MmfastError, match=r"values are \[3\]; wanted one for each entry, \[4\]"):
        graph.propagate(x, 1, "last", values=values[:3])
    with pytest.raises(MmfastError, match="takes no edge values; build it with edge_graph"):
        user_item_graph(*pairs(), NUM_USERS, NUM_ITEMS).propagate(torch.rand(12, 2), 1, values=values)


def test_the_order_of_the_transpose_is_kept_as_the_ops_take_it():
    graph = edge_graph(np.array([2, 0, 1, 0]), np.array([1, 3, 0, 1]), 3, 4)
    assert graph.order.dtype == torch.int32 and graph.incoming().edges_t is graph.order
    many = np.broadcast_to(np.int32(0), 2**31)
    with pytest.raises(MmfastError, match="edge_graph: there are 2147483648 entries; wanted less than 2"):
        edge_graph(many, many, 1, 1)


def test_dropped_entries():
    graph = user_item_graph(*pairs(), NUM_USERS, NUM_ITEMS, "sym0")
    full = dense(graph.csr, NUM_USERS + NUM_ITEMS)
    torch.manual_seed(0)
    for dropped in (drop_entries(graph, 0.5), drop_entries(graph, 0.5)):
        left = dense(dropped.csr, NUM_USERS + NUM_ITEMS)
        check(dropped, left.numpy())
        torch.testing.assert_close(left[left != 0], 2 * full[left != 0])
        assert 0 < (left != 0).sum() < (full != 0).sum()
        assert dropped.order is graph.order  # found once


def test_graphs_move_with_their_model():
    model = torch.nn.Module()
    model.graph = user_item_graph(*pairs(), NUM_USERS, NUM_ITEMS, "rw")
    assert model.state_dict() == {}
    moved = model.to("meta").graph
    for operator in (moved.csr, moved.transpose):
        assert {t.device.type for t in operator if t is not None} == {"meta"}
    assert moved.transpose.cols is moved.csr.cols
    assert moved.transpose.col_scale is moved.csr.row_scale


def test_messages():
    with pytest.raises(MmfastError, match="user_item_graph: norm is 'best'; choose one of sym, sym0, rw, mean, plain"):
        user_item_graph(*pairs(), NUM_USERS, NUM_ITEMS, "best")
    with pytest.raises(MmfastError, match="user_item_block: norm is 'rw'; choose one of sym, sym0, mean, plain"):
        user_item_block(*pairs(), NUM_USERS, NUM_ITEMS, "rw")
    with pytest.raises(MmfastError, match="user_item_block: rows is 'both'; choose users or items"):
        user_item_block(*pairs(), NUM_USERS, NUM_ITEMS, rows="both")
