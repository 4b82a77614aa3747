"""propagate: graph convolution without weights, E_{l+1} = A E_l, read out over the layers (LightGCN, 2020)."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_devices, check_whole, native, register
from mmfast.ops._slopes import register_gradient
from mmfast.ops.csr import CSR

READOUTS = ("mean", "sum", "last")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def propagate(
    csr: CSR,
    transpose: CSR,
    x: torch.Tensor,
    num_layers: int,
    readout: str = "mean",
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return the read-out of E_0 = x, E_1 = A E_0, ..., E_L, as [N, D]; differentiable once in x and csr.values.

    csr: A, N x N; or R x C with num_layers=1 and readout="last", where the result is [R, D]. transpose: A^T, the same
    CSR where A is symmetric; its row_scale is the col_scale of `csr` and its col_scale the row_scale, the same tensors.
    x: [N, D], or [N, T, D] for T tables side by side, each as if it were alone. float32 or float64, the dtype of values
    and scales; or bfloat16 or float16 with float32 values and scales: then products are summed in float32 and every
    layer is rounded once, the last one not at all with dtype=torch.float32. readout: "mean" (over the L + 1 terms),
    "sum" or "last" (E_L alone). Raises MmfastError for arguments that do not fit together.

    Where csr.values needs a gradient, transpose.values must hold the same numbers; no gradient flows through them.

    Example: `users, items = propagate(graph, graph, torch.cat([user_table, item_table]), 3).split([U, I])`
    """
    _check("propagate", csr, transpose, x, num_layers, readout, dtype)
    if not native("propagate", x):
        return propagate_reference(csr, x, num_layers, readout, dtype)
    if learned(csr) and (num_layers, readout) != (1, "last"):
        return _layer_by_layer(csr, transpose, x, num_layers, readout, dtype)
    graph = _operands(csr, transpose)
    out = call_native("propagate", *graph, x.flatten(1), num_layers, readout, dtype)
    return out.unflatten(1, x.shape[1:]) if x.dim() > 2 else out


def propagate_rows(
    csr: CSR,
    transpose: CSR,
    x: torch.Tensor,
    rows: torch.Tensor,
    num_layers: int,
    readout: str = "mean",
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows `rows` of `propagate(...)` and of x itself, each [R, D]: what the loss of one batch needs.

    rows: int64 [R], sorted and unique, as from `compact_ids`. The last layer is computed at these rows only, on a CPU
    those before it where few nodes are reached, and the gradient starts from the rows without a table of zeros; where
    csr.values needs a gradient, all rows are computed. An operator that is not square gives no rows of x: the second
    table is empty. The other arguments and errors are those of `propagate`.
    """
    _check("propagate_rows", csr, transpose, x, num_layers, readout, dtype)
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise MmfastError(f"propagate_rows: rows is {rows.dtype} {list(rows.shape)}; wanted int64 [R]")
    if not native("propagate_rows", x):
        return propagate_rows_reference(csr, x, rows, num_layers, readout, dtype)
    if learned(csr):
        check_devices("propagate_rows", (*_operands(csr, transpose), x, rows))
        own = x[rows] if csr.num_rows == x.shape[0] else x[:0]
        return propagate(csr, transpose, x, num_layers, readout, dtype)[rows], own
    graph = _operands(csr, transpose)
    part, own = call_native("propagate_rows", *graph, x.flatten(1), rows, num_layers, readout, dtype)
    return (part.unflatten(1, x.shape[1:]), own.unflatten(1, x.shape[1:])) if x.dim() > 2 else (part, own)


def propagate_reference(
    csr: CSR, x: torch.Tensor, num_layers: int, readout: str = "mean", dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return what `propagate` returns, in plain PyTorch; half tables are rounded at the end alone."""
    index = torch.stack([csr.rows(), csr.cols.long()])
    table = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    size = (csr.num_rows, x.shape[0])
    matrix = torch.sparse_coo_tensor(index, csr.entries(table.dtype), size, check_invariants=True)
    layers = [table]
    with torch.autocast(x.device.type, enabled=False):  # sums are of float32 at least
        for _ in range(num_layers):
            layers.append(torch.sparse.mm(matrix, layers[-1]))
    total = layers[-1].clone() if readout == "last" else torch.stack(layers).sum(0)
    if readout == "mean":
        total = total / (num_layers + 1)
    return total.to(dtype or x.dtype).reshape(csr.num_rows, *x.shape[1:])


def propagate_rows_reference(
    csr: CSR,
    x: torch.Tensor,
    rows: torch.Tensor,
    num_layers: int,
    readout: str = "mean",
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `propagate_rows` returns, in plain PyTorch."""
    if not bool((rows.diff() > 0).all()):
        raise MmfastError("propagate_rows: rows are not sorted and unique; take them from compact_ids")
    own = x[rows] if csr.num_rows == x.shape[0] else x[:0]
    return propagate_reference(csr, x, num_layers, readout, dtype)[rows], own


def learned(csr: CSR) -> bool:
    """Return whether the values of the operator need a gradient."""
    return csr.values is not None and csr.values.requires_grad and torch.is_grad_enabled()


def _layer_by_layer(
    csr: CSR, transpose: CSR, x: torch.Tensor, num_layers: int, readout: str, dtype: torch.dtype | None
) -> torch.Tensor:
    """Return the read-out by Horner's rule, a layer at a time: the gradient of the values needs every layer's input.

    Layers are made in float32 at least and rounded once, to the type of x; the last one to the type of the result.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    base = x.to(wide)  # the gradients of x meet here and are rounded once as well
    layer = base
    for number in range(1, num_layers + 1):
        layer = propagate(csr, transpose, layer.to(x.dtype), 1, "last", wide)
        if readout != "last":
            layer = base + layer
        if readout == "mean" and number == num_layers:
            layer = layer * (1 / (num_layers + 1))
    return layer.to(dtype or x.dtype)


def _check(
    op: str, csr: CSR, transpose: CSR, x: torch.Tensor, num_layers: int, readout: str, dtype: torch.dtype | None
) -> None:
    if readout not in READOUTS:
        raise MmfastError(f"{op}: readout is '{readout}'; choose one of {', '.join(READOUTS)}")
    check_whole(op, num_layers=num_layers)
    if num_layers < 0:
        raise MmfastError(f"{op}: num_layers is {num_layers}; choose 0 or more")
    if x.dtype not in DTYPES:
        raise MmfastError(f"{op}: x is {x.dtype}; wanted one of {', '.join(map(str, DTYPES))}")
    if dtype not in (None, x.dtype) and (dtype != torch.float32 or x.dtype == torch.float64):
        raise MmfastError(f"{op}: dtype is {dtype} for a table of {x.dtype}; wanted its own, or float32 for half")
    if x.dim() < 2 or x.shape[0] != transpose.num_rows:
        raise MmfastError(
            f"{op}: x is {list(x.shape)}; wanted [{transpose.num_rows}, D], a row for every column of the graph"
        )
    if csr.num_rows != transpose.num_rows and (num_layers != 1 or readout != "last"):
        raise MmfastError(
            f"{op}: the graph is {csr.num_rows} x {transpose.num_rows}, which is not square; "
            "pass its transpose, and choose num_layers=1 and readout='last'"
        )
    if (transpose.values is None) != (csr.values is None):
        raise MmfastError(f"{op}: one of the graph and its transpose has values; give both their values, or neither")
    if transpose.num_entries != csr.num_entries:
        raise MmfastError(
            f"{op}: transpose has {transpose.num_entries} entries, the graph {csr.num_entries}; "
            "pass its transpose (itself where it is symmetric)"
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
    ptr, cols, _, *transpose, row_scale, col_scale, x, num_layers, readout, _ = inputs
    values_grad = ctx.needs_input_grad[2]
    if values_grad and (num_layers, readout) != (1, "last"):
        raise MmfastError(
            f"propagate: values need a gradient with num_layers={num_layers}, readout='{readout}'; call the function "
            "mmfast.ops.propagate, which goes layer by layer"
        )
    # A^T is scaled the other way round: its rows are the columns of A.
    ctx.save_for_backward(*transpose, col_scale, row_scale, ptr, cols, x if values_grad else None)
    ctx.layers, ctx.dtype = (num_layers, readout), x.dtype


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    *transpose, ptr, cols, x = ctx.saved_tensors
    grad = grad.to(ctx.dtype)
    grad_x = grad_values = None
    if ctx.needs_input_grad[8]:
        grad_x = torch.ops.mmfast.propagate_backward(*transpose, grad, None, None, ptr.shape[0] - 1, *ctx.layers)
    if x is not None:
        col_scale, row_scale = transpose[3:]
        grad_values = torch.ops.mmfast.propagate_values_backward(ptr, cols, row_scale, col_scale, grad, x)
    return (None, None, grad_values, *[None] * 5, grad_x, None, None, None)


def _setup_rows(ctx: Any, inputs: tuple, output: Any) -> None:
    ptr, _, _, *transpose, row_scale, col_scale, x, rows, num_layers, readout, _ = inputs
    if ctx.needs_input_grad[2]:
        raise MmfastError("propagate_rows: values need a gradient; call the function mmfast.ops.propagate_rows")
    ctx.save_for_backward(*transpose, col_scale, row_scale, rows)
    ctx.layers, ctx.num_rows, ctx.dtype = (num_layers, readout), ptr.shape[0] - 1, x.dtype
    ctx.set_materialize_grads(False)  # x's own rows often stay unused


def _backward_rows(
    ctx: Any, grad: torch.Tensor | None, grad_input: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    *operator, rows = ctx.saved_tensors
    if operator[0].shape[0] - 1 != ctx.num_rows:
        grad_input = None  # no rows of x were given
    if grad is None and grad_input is None:
        return (None,) * 13
    grad = torch.zeros_like(grad_input) if grad is None else grad.to(ctx.dtype)
    grad_x = torch.ops.mmfast.propagate_backward(*operator, grad, grad_input, rows, ctx.num_rows, *ctx.layers)
    return (*[None] * 8, grad_x, *[None] * 4)


def _fake(*inputs: Any) -> torch.Tensor:
    ptr, x, dtype = inputs[0], inputs[8], (*inputs, None)[11]
    return x.new_empty((ptr.shape[0] - 1, x.shape[1]), dtype=dtype or x.dtype)


def _fake_rows(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ptr, x, rows, dtype = inputs[0], inputs[8], inputs[9], (*inputs, None)[12]
    own = rows.shape[0] if ptr.shape[0] - 1 == x.shape[0] else 0
    return x.new_empty((rows.shape[0], x.shape[1]), dtype=dtype or x.dtype), x.new_empty((own, x.shape[1]))


def _fake_backward(*inputs: Any) -> torch.Tensor:
    ptr, grad = inputs[0], inputs[5]
    return grad.new_empty((ptr.shape[0] - 1, grad.shape[1]))


def _fake_values(*inputs: Any) -> torch.Tensor:
    cols, x = inputs[1], inputs[5]
    return x.new_empty(cols.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))


def _fake_step(*inputs: Any) -> torch.Tensor:
    ptr, x = inputs[0], inputs[5]
    return x.new_empty((ptr.shape[0] - 1, x.shape[1]))


register("propagate", _fake, _backward, _setup)
register("propagate_rows", _fake_rows, _backward_rows, _setup_rows)
register_gradient("propagate_backward", _fake_backward)
register_gradient("propagate_values_backward", _fake_values, of="propagate")
register_gradient("propagate_step", _fake_step, of="propagate")
