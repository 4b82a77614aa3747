"""Every op once: a function of tensors to results and gradients, those tensors, and what it needs of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from mmfast import ops
from mmfast.ops.csr import CSR
from mmfast.ops.knn_graph import knn_graph_reference
from mmfast.ops.template_op import template_op
from tests.ops.graphs import operator


class Case(NamedTuple):
    """step(*tensors) returns tensors. host: why the op waits for the device and cannot be captured, or ""."""

    step: Callable[..., list[torch.Tensor]]
    tensors: tuple[torch.Tensor, ...]
    host: str = ""


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(size, most, seed=0):
    return torch.randint(most, (size,), generator=torch.Generator().manual_seed(seed))


def lists(num_rows, num_items, seed):
    """Ascending lists of items, one per row: (offsets, items int32)."""
    kept = torch.rand(num_rows, num_items, generator=torch.Generator().manual_seed(seed)) < 0.05
    return torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)]), kept.nonzero()[:, 1].int()


def with_gradients(fn, *wanted):
    """Return a step: fn's results and gradients of the arguments at these places, of a sum that tells results apart."""

    def step(*tensors):
        leaves = [t.requires_grad_() if n in wanted else t for n, t in enumerate(tensors)]
        found = fn(*leaves)
        results = [found] if isinstance(found, torch.Tensor) else list(found)
        total = sum((t * torch.arange(1.0, 1 + t.numel(), device=t.device).view(t.shape).cos()).sum() for t in results)
        return [*results, *torch.autograd.grad(total, [leaves[n] for n in wanted])]

    return step


def graph_of(ptr, cols, values, ptr_t, cols_t, values_t, row_scale, col_scale):
    return CSR(ptr, cols, values, row_scale, col_scale), CSR(ptr_t, cols_t, values_t, col_scale, row_scale)


def part_of_one_rank(*tensors):
    csr, transpose = graph_of(*tensors[:8])
    return ops.propagate_partitioned(csr, tensors[8], lambda rows: rows, 2, "mean", transpose)


def learned_values(ptr, cols, ptr_t, rows_t, edges_t, values, x):
    csr, transpose = ops.Edges(ptr, cols, ptr_t, rows_t, edges_t).operator(values)
    return ops.propagate(csr, transpose, x, 2)


def on_edges(op):
    return lambda ptr, cols, ptr_t, rows_t, edges_t, *rest: op(ops.Edges(ptr, cols, ptr_t, rows_t, edges_t), *rest)


def adam(param, exp_avg, exp_avg_sq, rows, grad):
    state = [param.clone(), exp_avg.clone(), exp_avg_sq.clone()]
    ops.adam_rows_(*state, rows, grad, lr=0.01, step=3)
    return state


def catch_up(param, exp_avg, exp_avg_sq, made, rows):
    state = [param.clone(), exp_avg.clone(), exp_avg_sq.clone(), made.clone()]
    ops.adam_catch_up_(*state, rows, lr=0.01, step=8)
    ops.adam_catch_up_(*state, lr=0.01, step=9)
    return state


def lazy_adam(param, exp_avg, exp_avg_sq, made, rows, grad):
    state = [param.clone(), exp_avg.clone(), exp_avg_sq.clone(), made.clone()]
    ops.adam_lazy_(*state, rows, grad, lr=0.01, step=9)
    return state


def graph_cases():
    csr, transpose = operator(301, 3000, torch.float32)
    graph = (*csr[:3], *transpose[:3], csr.row_scale, csr.col_scale)
    edges = ops.Edges.of(csr)
    x, values, rows = randn(301, 64), randn(3000, seed=1), torch.arange(0, 301, 7)
    return {
        "propagate": Case(with_gradients(lambda *t: ops.propagate(*graph_of(*t[:8]), t[8], 3), 8), (*graph, x)),
        "propagate_rows": Case(
            with_gradients(lambda *t: ops.propagate_rows(*graph_of(*t[:8]), t[8], t[9], 3), 8), (*graph, x, rows)
        ),
        "propagate_partitioned": Case(with_gradients(part_of_one_rank, 8), (*graph, x)),
        "propagate, learned values": Case(with_gradients(learned_values, 5, 6), (*edges, values, x)),
        "edge_attention": Case(
            with_gradients(on_edges(ops.edge_attention), 5, 6, 7), (*edges, x, randn(301, 64, seed=1), randn(301, 32))
        ),
        "edge_softmax": Case(with_gradients(ops.edge_softmax, 1), (edges.ptr, values)),
        "edge_gather": Case(with_gradients(on_edges(ops.edge_gather), 5), (*edges, randn(301, 3))),
        "edge_sum": Case(with_gradients(on_edges(ops.edge_sum), 5), (*edges, randn(3000, 3))),
    }


def loss_cases():
    users, items, x, y = randn(301, 64), randn(203, 64, seed=1), randn(130, 64, seed=2), randn(130, 64, seed=3)
    index, margins = (ids(2048, 301), ids(2048, 203, 1), ids(2048, 203, 2)), [randn(2, 200, seed=s) for s in range(4)]
    counts = torch.tensor([0, 2, 4]).repeat(44)[:130]
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    aux, words = randn(int(ptr[-1]), 64, seed=4), randn(int(ptr[-1]), 64, seed=5)
    return {
        "bpr_loss": Case(with_gradients(ops.bpr_loss, 0, 1), (users, items, *index)),
        "triple_margins": Case(with_gradients(ops.triple_margins, 0, 1), (users, items, *index)),
        "gathered_norm": Case(with_gradients(ops.gathered_norm, 0), (users, index[0])),
        "info_nce": Case(
            with_gradients(lambda x, y, i: ops.info_nce(x, y, 0.2, i, negatives="all", intra=True), 0, 1),
            (x, items, ids(130, 203, 4)),
        ),
        "transfer_kl": Case(
            with_gradients(ops.transfer_kl, 0, 2), (x, y, torch.stack([randn(130, 64), randn(130, 64, seed=6)]))
        ),
        "ckd_loss": Case(with_gradients(ops.ckd_loss, 1, 3), (randn(200), *margins)),
        "target_contrast": Case(with_gradients(ops.target_contrast, 0, 1), (x, aux, ptr, y, words, ptr.clone())),
        "target_pool": Case(with_gradients(ops.target_pool, 0, 1, 3), (x, aux, ptr, randn(128))),
        "cosine_loss": Case(with_gradients(ops.cosine_loss, 0, 1), (x, y)),
        "moments": Case(with_gradients(ops.moments, 0), (x,)),
    }


def table_cases():
    tables = randn(301, 64), randn(301, 64, seed=1), randn(301, 64, seed=2).square()
    rows, made = torch.arange(0, 301, 7), torch.ones(301, 2, dtype=torch.int32)
    grad = randn(len(rows), 64, seed=3)
    return {
        "project_rows": Case(with_gradients(ops.project_rows, 2), (randn(301, 515), rows, randn(64, 515, seed=1))),
        "adam_rows_": Case(adam, (*tables, rows, grad)),
        "adam_catch_up_": Case(catch_up, (*tables, made, rows)),
        "adam_lazy_": Case(lazy_adam, (*tables, made, rows, grad)),
        "dct": Case(with_gradients(lambda x: ops.dct(x, 2), 0), (randn(67, 130),)),
        "idct": Case(with_gradients(lambda x: ops.idct(x, 2), 0), (randn(67, 130),)),
        "template_op": Case(with_gradients(template_op, 0), (randn(67, 5),)),
    }


def sampling_cases():
    ptr, items = lists(400, 300, 4)
    filled, some = torch.nonzero(ptr.diff()).flatten(), torch.arange(0, 300, 2).int()
    return {
        "sample_triples": Case(lambda users: [ops.sample_triples(users, 77, 200, 3, seed=5)], (torch.arange(1000),)),
        "sample_user_rows": Case(lambda *t: [ops.sample_user_rows(*t, 150, 7, seed=3)], (ptr, filled)),
        "sample_negatives": Case(
            lambda *t: [ops.sample_negatives(*t, seed=3, offset=2**33)],
            (ids(5000, 400), ptr, items, some),
            "a user without a negative is named",
        ),
        "sample_edges": Case(
            lambda weights: [ops.sample_edges(weights, 50_000, seed=3, stream=9)],
            (torch.rand(200_003, generator=torch.Generator().manual_seed(0)) + 0.01,),
            "an edge whose weight is not above zero is named",
        ),
        "compact_ids": Case(lambda t: [*ops.compact_ids(t, 301)], (ids(700, 301),), "the size of the result is read"),
    }


def search_cases():
    features, name = randn(130, 64), "a row with NaN is named"
    known = knn_graph_reference(features[:100], 5, metric="inner")
    candidates = torch.arange(0, 130, 2).int()
    return {
        "rank": Case(
            lambda *t: [*ops.rank(*t[:6], 7, t[6])],
            (randn(60, 64), features, *lists(60, 130, 2), *lists(60, 130, 3), candidates),
            "a user with NaN scores is named",
        ),
        "knn_graph": Case(lambda x: [*ops.knn_graph(x, 5)], (features,), name),
        "knn_update": Case(lambda *t: [*ops.knn_update(*t, metric="inner")], (features, *known), name),
        "knn_count": Case(lambda x: [ops.knn_count(x, 0.1)], (features,), name),
        "knn_threshold": Case(lambda x: [*ops.knn_threshold(x, 0.1)], (features,), "the number of edges is read"),
    }


CASES = graph_cases() | loss_cases() | table_cases() | sampling_cases() | search_cases()
