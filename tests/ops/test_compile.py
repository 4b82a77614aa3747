"""The public functions of the ops run inside torch.compile without a graph break."""

from __future__ import annotations

import pytest
import torch

from mmfast.graph import user_item_graph
from mmfast.ops import (
    adam_catch_up_,
    adam_lazy_,
    adam_rows_,
    bpr_loss,
    gathered_norm,
    knn_count,
    knn_graph,
    knn_update,
    project_rows,
    rank,
    sample_edges,
    sample_negatives,
    sample_triples,
    sample_user_rows,
)


def test_a_training_loss_compiles_whole():
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randint(0, 5, (12,), generator=generator).unique().int() for _ in range(2))
    pairs = torch.cartesian_prod(users, items).numpy()
    graph = user_item_graph(pairs[:, 0], pairs[:, 1], 5, 5)
    nodes = torch.randn(10, 8, generator=generator, requires_grad=True)
    features, weight = torch.randn(5, 7, generator=generator), torch.randn(8, 7, generator=generator)
    rows, index = torch.arange(5), torch.tensor([0, 3, 4])

    def loss(nodes):
        final = graph.propagate(nodes, 2)
        content = project_rows(features, rows, weight)
        return bpr_loss(final[:5], final[5:] + content, index, index, index.flip(0)) + gathered_norm(nodes, index)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(nodes), loss(nodes))
    (grad,), (want,) = (torch.autograd.grad(f(nodes), nodes) for f in (compiled, loss))
    assert torch.allclose(grad, want)


@pytest.mark.parametrize("learned", ["weight", "table"])
def test_a_projection_compiles_whole_with_its_gradient(learned):
    generator = torch.Generator().manual_seed(0)
    tables = {name: torch.randn(n, 7, generator=generator) for name, n in (("table", 9), ("weight", 5))}
    tables[learned].requires_grad_()
    rows = torch.tensor([1, 3, 8])

    def loss(table, weight):
        return project_rows(table, rows, weight).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value, want = compiled(**tables), loss(**tables)
    assert torch.equal(value, want)
    (grad,), (wanted,) = (torch.autograd.grad(of, tables[learned]) for of in (value, want))
    assert grad.is_sparse == wanted.is_sparse == (learned == "table")
    assert torch.equal(grad.to_dense(), wanted.to_dense())


def test_searches_compile_whole():
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    none, ids = torch.zeros(51, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)

    def search(features):
        lists = knn_update(features, *knn_graph(features[:40], 3), metric="cosine")
        best = rank(features, features, none, ids, none, ids, 5, torch.arange(0, 50, 2, dtype=torch.int32))
        return *lists, knn_count(features, 0.2), *best

    compiled = torch.compile(search, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(features), search(features), strict=True))


def compiled_as_called(function, numbers):
    """Compare one compiled function of tensors and a number with the function itself, for every number."""
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for number in numbers:
        for got, want in zip(compiled(number), function(number), strict=True):
            assert torch.equal(got, want)


def test_samplers_compile_once_for_every_draw():
    users, ptr, items = torch.arange(9), torch.arange(10), torch.arange(9, dtype=torch.int32)

    def draw(number):
        triples = sample_triples(users, 7, 4, 2, seed=number, first_draw=2 * number)
        rows = sample_user_rows(ptr, users, 4, 2, seed=number, first_draw=2 * number)
        return triples, rows, sample_negatives(users, ptr, items, items, seed=number, offset=9 * number)

    compiled_as_called(draw, range(12))


def test_edges_are_sampled_by_one_graph_for_every_epoch_and_number():
    weights = torch.rand(40, generator=torch.Generator().manual_seed(0)) + 0.1
    compiled_as_called(lambda n: [sample_edges(weights, 20 + n, seed=5, stream=n)], range(12))


@pytest.mark.parametrize("number", [lambda step: step, lambda step: torch.tensor(step)])
def test_adam_compiles_once_for_every_step(number):
    rows, grad = torch.arange(0, 9, 2), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def train(whole, lazy, step):
        adam_rows_(*whole, rows, grad, lr=0.01, step=step)
        adam_catch_up_(*lazy, rows, lr=0.01, step=step - 1)
        adam_lazy_(*lazy, rows, grad, lr=0.01, step=step)

    compiled, results = torch.compile(train, fullgraph=True, backend="aot_eager"), []
    for function in (compiled, train):
        whole = [torch.ones(9, 3), torch.zeros(9, 3), torch.zeros(9, 3)]
        lazy = [*(t.clone() for t in whole), torch.zeros(9, 2, dtype=torch.int32)]
        for step in range(1, 13):
            function(whole, lazy, number(step))
        results.append([*whole, *lazy])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
