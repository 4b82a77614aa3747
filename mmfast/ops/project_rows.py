"""project_rows: some rows of a wide feature table times a narrow weight, without a copy of the rows."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import register_gradient


def project_rows(table: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return table[rows] @ weight.T, [R, D]; differentiable once in table and weight.

    table: float32 or float64 [I, F]; rows: int64 [R], sorted and unique, as from `compact_ids`; weight: [D, F] of the
    table's dtype.
    The gradient of the table is row-sparse. Raises MmfastError for arguments that do not fit together.

    Example: `content = project_rows(features, item_rows, linear.weight) + linear.bias`
    """
    if table.dim() != 2 or weight.dim() != 2 or table.shape[1] != weight.shape[1] or table.dtype != weight.dtype:
        raise MmfastError(
            f"project_rows: table is {table.dtype} {list(table.shape)}, weight is {weight.dtype} {list(weight.shape)}; "
            "wanted [I, F] and [D, F] of one dtype"
        )
    if table.dtype not in (torch.float32, torch.float64):
        raise MmfastError(f"project_rows: table and weight are {table.dtype}; wanted float32 or float64; convert both")
    if rows.dim() != 1 or rows.dtype != torch.int64:
        raise MmfastError(f"project_rows: rows is {rows.dtype} {list(rows.shape)}; wanted int64 [R]")
    if not native("project_rows", table):
        return project_rows_reference(table, rows, weight)
    return call_native("project_rows", table, rows, weight)


def project_rows_reference(table: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return what `project_rows` returns, in plain PyTorch."""
    return torch.nn.functional.embedding(rows, table, sparse=True) @ weight.t()


def _setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, torch.Tensor | None]:
    table, rows, weight = ctx.saved_tensors
    grad_table = grad_weight = None
    if ctx.needs_input_grad[0]:
        # A product of 64 numbers each: the library's is as fast as memory allows.
        grad_table = torch.sparse_coo_tensor(
            rows[None], grad @ weight, table.shape, is_coalesced=True, check_invariants=False
        )
    if ctx.needs_input_grad[2]:
        grad_weight = torch.ops.mmfast.project_rows_weight(grad, table, rows)
    return grad_table, None, grad_weight


def _fake(table: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight.new_empty(rows.shape[0], weight.shape[0])


def _fake_weight(grad: torch.Tensor, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return grad.new_empty(grad.shape[1], table.shape[1])


register("project_rows", _fake, _backward, _setup)
register_gradient("project_rows_weight", _fake_weight, of="project_rows")
