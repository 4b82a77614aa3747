"""gathered_norm: the Frobenius norm of the rows of a batch, from row counts instead of a gather."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import register_gradient


def gathered_norm(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return |table[index]|_F, repeats counted, a scalar; differentiable once in the table, with gradient 0 at norm 0.

    table: float [R, D]; index: int64 [B] of rows; half precision, as under autocast, is computed in float32.
    Raises MmfastError for other shapes or types; an index outside the table is an error that names the range.

    Example: `norm = gathered_norm(item_rows, pos_index)`
    """
    if table.dim() != 2 or index.dim() != 1 or index.dtype != torch.int64:
        raise MmfastError(
            f"gathered_norm: table is {list(table.shape)}, index is {index.dtype} {list(index.shape)}; "
            "wanted a table [R, D] and an int64 index [B]"
        )
    table = table.float() if table.dtype in (torch.bfloat16, torch.float16) else table
    if not native("gathered_norm", table):
        return gathered_norm_reference(table, index)
    return call_native("gathered_norm", table, index)[0]


def gathered_norm_reference(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return what `gathered_norm` returns, in plain PyTorch."""
    return torch.linalg.vector_norm(table[index])


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*output, inputs[0])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: torch.Tensor | None, _: Any) -> tuple[torch.Tensor | None, None]:
    if grad is None:
        return None, None
    return torch.ops.mmfast.gathered_norm_backward(grad, *ctx.saved_tensors), None


def _fake(table: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return table.new_empty(()), table.new_empty(table.shape[0])


def _fake_backward(grad: torch.Tensor, norm: torch.Tensor, counts: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(table, memory_format=torch.contiguous_format)


register("gathered_norm", _fake, _backward, _setup)
register_gradient("gathered_norm_backward", _fake_backward)
