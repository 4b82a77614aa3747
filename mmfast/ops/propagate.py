"""propagate: graph convolution without weights, E_{l+1} = A E_l, read out over the layers (LightGCN, 2020)."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops.csr import CSR

READOUTS = ("mean", "sum", "last")


def propagate(csr: CSR, transpose: CSR, x: torch.Tensor, num_layers: int, readout: str = "mean") -> torch.Tensor:
    """Return the read-out of E_0 = x, E_1 = A E_0, ..., E_L, as [N, D]; differentiable once in x.

    csr: A, N x N. transpose: A^T, the same CSR where A is symmetric; its row_scale is the col_scale of `csr` and its
    col_scale the row_scale, the same tensors. x: float [N, D], of the dtype of the values and scales. readout: "mean"
    (over the L + 1 terms), "sum" or "last" (E_L alone). Raises MmfastError for arguments that do not fit together.

    Example: `users, items = propagate(graph, graph, torch.cat([user_table, item_table]), 3).split([U, I])`
    """
    _check("propagate", csr, transpose, x, num_layers, readout)
    if not native("propagate", x):
        return propagate_reference(csr, x, num_layers, readout)
    return call_native("propagate", *_operands(csr, transpose), x, num_layers, readout)


def propagate_rows(
    csr: CSR, transpose: CSR, x: torch.Tensor, rows: torch.Tensor, num_layers: int, readout: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows `rows` of `propagate(...)` and of x itself, each [R, D]: what the loss of one batch needs.

    rows: int64 [R], sorted and unique, as from `compact_ids`. The last layer is computed at these rows only, and the
    gradient starts from them without a table of zeros. The other arguments and errors are those of `propagate`.
    """
    _check("propagate_rows", csr, transpose, x, num_layers, readout)
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise MmfastError(f"propagate_rows: rows is {rows.dtype} {list(rows.shape)}; wanted int64 [R]")
    if not native("propagate_rows", x):
        return propagate_rows_reference(csr, x, rows, num_layers, readout)
    return call_native("propagate_rows", *_operands(csr, transpose), x, rows, num_layers, readout)


def propagate_reference(csr: CSR, x: torch.Tensor, num_layers: int, readout: str = "mean") -> torch.Tensor:
    """Return what `propagate` returns, in plain PyTorch."""
    index = torch.stack([csr.rows(), csr.cols.long()])
    matrix = torch.sparse_coo_tensor(index, csr.entries(x.dtype), (csr.num_rows, csr.num_rows), check_invariants=True)
    layers = [x]
    for _ in range(num_layers):
        layers.append(torch.sparse.mm(matrix, layers[-1]))
    if readout == "last":
        return layers[-1].clone()
    total = torch.stack(layers).sum(0)
    return total / (num_layers + 1) if readout == "mean" else total


def propagate_rows_reference(
    csr: CSR, x: torch.Tensor, rows: torch.Tensor, num_layers: int, readout: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `propagate_rows` returns, in plain PyTorch."""
    if not bool((rows.diff() > 0).all()):
        raise MmfastError("propagate_rows: rows are not sorted and unique; take them from compact_ids")
    return propagate_reference(csr, x, num_layers, readout)[rows], x[rows]


def _check(op: str, csr: CSR, transpose: CSR, x: torch.Tensor, num_layers: int, readout: str) -> None:
    if readout not in READOUTS:
        raise MmfastError(f"{op}: readout is '{readout}'; choose one of {', '.join(READOUTS)}")
    if num_layers < 0:
        raise MmfastError(f"{op}: num_layers is {num_layers}; choose 0 or more")
    if x.dim() != 2 or x.shape[0] != csr.num_rows:
        raise MmfastError(f"{op}: x is {list(x.shape)}; wanted [{csr.num_rows}, D], a row for every row of the graph")
    if transpose.num_rows != csr.num_rows or transpose.num_entries != csr.num_entries:
        raise MmfastError(
            f"{op}: transpose has {transpose.num_rows} rows and {transpose.num_entries} entries, the graph "
            f"{csr.num_rows} and {csr.num_entries}; pass its transpose (itself where it is symmetric)"
        )
    if transpose.row_scale is not csr.col_scale or transpose.col_scale is not csr.row_scale:
        raise MmfastError(
            f"{op}: the scales of transpose are not those of the graph swapped; wanted transpose.row_scale to be "
            "csr.col_scale and transpose.col_scale to be csr.row_scale (the same tensors, or None)"
        )
    for name, tensor in csr._asdict().items():
        if tensor is not None and tensor.device != x.device:
            raise MmfastError(f"{op}: {name} is on {tensor.device}, x on {x.device}; move both to one device")


def _operands(csr: CSR, transpose: CSR) -> tuple[torch.Tensor | None, ...]:
    """Return the graph arguments in the order of the schemas; the scales serve both directions."""
    return (*csr[:3], *transpose[:3], csr.row_scale, csr.col_scale)


def _setup(ctx: Any, inputs: tuple, output: Any) -> None:
    _, _, _, *transpose, row_scale, col_scale, _, _, _ = inputs
    # A^T is scaled the other way round: its rows are the columns of A.
    ctx.save_for_backward(*transpose, col_scale, row_scale)
    ctx.layers = inputs[-2:]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    grad_x = torch.ops.mmfast.propagate_backward(*ctx.saved_tensors, grad, None, None, *ctx.layers)
    return (*[None] * 8, grad_x, None, None)


def _setup_rows(ctx: Any, inputs: tuple, output: Any) -> None:
    _, _, _, *transpose, row_scale, col_scale, _, rows, _, _ = inputs
    ctx.save_for_backward(*transpose, col_scale, row_scale, rows)
    ctx.layers = inputs[-2:]
    ctx.set_materialize_grads(False)  # x's own rows often stay unused


def _backward_rows(
    ctx: Any, grad: torch.Tensor | None, grad_input: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    *operator, rows = ctx.saved_tensors
    if grad is None and grad_input is None:
        return (None,) * 12
    if grad is None:
        grad = torch.zeros_like(grad_input)
    grad_x = torch.ops.mmfast.propagate_backward(*operator, grad, grad_input, rows, *ctx.layers)
    return (*[None] * 8, grad_x, None, None, None)


def _setup_once(ctx: Any, inputs: tuple, output: Any) -> None:
    """Save nothing: the gradient below only refuses."""


def _backward_once(ctx: Any, *grads: torch.Tensor) -> None:
    raise MmfastError(
        "propagate: second derivatives are not provided; use MMFAST_BACKEND=reference where they are needed"
    )


def _fake_rows(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x, rows = inputs[8], inputs[9]
    shape = (rows.shape[0], x.shape[1])
    return x.new_empty(shape), x.new_empty(shape)


def _fake_backward(*inputs: Any) -> torch.Tensor:
    ptr, grad = inputs[0], inputs[5]
    return grad.new_empty((ptr.shape[0] - 1, grad.shape[1]))


register("propagate", lambda *inputs: inputs[8].new_empty(inputs[8].shape), _backward, _setup)
register("propagate_rows", _fake_rows, _backward_rows, _setup_rows)
register("propagate_backward", _fake_backward, _backward_once, _setup_once)
