"""edge_gather, edge_sum: numbers of nodes at their edges, and sums over a node's edges, without atomics."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops.edges import Edges


def edge_gather(edges: Edges, table: torch.Tensor) -> torch.Tensor:
    """Return table[cols], the numbers of every edge's source node: [E, H]; the gradient is `edge_sum`.

    table: float [C, H], a few numbers per node (GRCN's confidence of M modalities): the result holds H numbers per
    edge; half precision, as under autocast, is computed in float32. Raises MmfastError for arguments that do not fit.

    Example: `weights = (alphas * edge_gather(edges, confidence)).amax(1).relu()`
    """
    table = _checked("edge_gather", table, "table", edges.num_cols)
    if not native("edge_gather", table):
        return table[edges.cols]
    return call_native("edge_gather", edges.cols, edges.ptr_t, edges.edges_t, table)


def edge_sum(edges: Edges, values: torch.Tensor) -> torch.Tensor:
    """Return the sums of `values` over the edges that leave every source node: [C, H]; the gradient is `edge_gather`.

    values: float [E, H]; half precision, as under autocast, is computed in float32. The order of a sum is that of the
    entries, whatever the number of threads. Raises MmfastError for arguments that do not fit.

    Example: `given = edge_sum(edges, alpha[:, None])`
    """
    values = _checked("edge_sum", values, "values", edges.cols.numel())
    if not native("edge_sum", values):
        return values.new_zeros(edges.num_cols, values.shape[1]).index_add(0, edges.cols, values)
    return call_native("edge_sum", edges.cols, edges.ptr_t, edges.edges_t, values)


def _checked(op: str, x: torch.Tensor, name: str, rows: int) -> torch.Tensor:
    if x.dim() != 2 or x.shape[0] != rows or not x.is_floating_point():
        raise MmfastError(f"{op}: {name} is {x.dtype} {list(x.shape)}; wanted floats [{rows}, H]")
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _gather_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return None, None, None, torch.ops.mmfast.edge_sum(*ctx.saved_tensors, grad)


def _sum_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return None, None, None, torch.ops.mmfast.edge_gather(*ctx.saved_tensors, grad)


def _fake_gather(cols: torch.Tensor, ptr_t: torch.Tensor, edges_t: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return table.new_empty((cols.shape[0], table.shape[1]))


def _fake_sum(cols: torch.Tensor, ptr_t: torch.Tensor, edges_t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return values.new_empty((ptr_t.shape[0] - 1, values.shape[1]))


register("edge_gather", _fake_gather, _gather_backward, _setup)
register("edge_sum", _fake_sum, _sum_backward, _setup)
