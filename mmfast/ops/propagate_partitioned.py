"""propagate_partitioned: propagation over a graph whose rows are divided among ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native
from mmfast.ops.csr import CSR
from mmfast.ops.propagate import DTYPES, READOUTS, learned

Gather = Callable[[torch.Tensor], torch.Tensor]


def propagate_partitioned(
    csr: CSR,
    x: torch.Tensor,
    gather: Gather,
    num_layers: int,
    readout: str = "mean",
    transpose: CSR | None = None,
) -> torch.Tensor:
    """Return this rank's rows of `propagate(...)`, [R, D], bit by bit; differentiable in x, not in csr.values.

    csr: this rank's rows of A, [R, N], as from `CSR.block`. transpose: its rows of A^T; None where A is symmetric. x:
    its rows of E_0, [R, D], or [R, T, D] for T tables side by side; half tables have half layers, as in `propagate`.
    gather: given the rows [R, D] (or [R, T D]) of each rank, returns all [N, D] in order; every rank calls it once a
    layer, forward and backward. The rest as in `propagate`. Raises MmfastError for sizes and types that do not fit and
    for values that need a gradient.

    Example: `propagate_partitioned(csr.block(a, b), table[a:b], lambda rows: all_gather(rows), 3)`
    """
    _check(csr, x, num_layers, readout, transpose)
    whole = csr if transpose is None else transpose
    out = _Partitioned.apply(x.flatten(1), csr, whole, gather, num_layers, readout)
    return out.unflatten(1, x.shape[1:]) if x.dim() > 2 else out


class _Partitioned(torch.autograd.Function):
    """The read-out is a polynomial p(A): its gradient is p(A^T), the same function of the transposed operator."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, csr: CSR, transpose: CSR, gather: Gather, num_layers: int, readout: str
    ) -> torch.Tensor:
        ctx.arguments = transpose, gather, num_layers, readout
        return _layers(csr, x, gather, num_layers, readout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        transpose, *rest = ctx.arguments
        return (_layers(transpose, grad.contiguous(), *rest), *[None] * 5)


def _layers(csr: CSR, x: torch.Tensor, gather: Gather, num_layers: int, readout: str) -> torch.Tensor:
    layer = x.clone()
    for number in range(1, num_layers + 1):
        alpha = 1.0 / (num_layers + 1) if readout == "mean" and number == num_layers else 1.0
        layer = _step(csr, gather(layer), None if readout == "last" else x, alpha)
    return layer


def _step(csr: CSR, table: torch.Tensor, base: torch.Tensor | None, alpha: float) -> torch.Tensor:
    """Return alpha * (base + A table)."""
    if native("propagate_step", table):
        return call_native("propagate_step", *csr, table, base, alpha)
    index = torch.stack([csr.rows(), csr.cols.long()])
    size = (csr.num_rows, table.shape[0])
    wide = torch.promote_types(table.dtype, torch.float32)
    product = torch.sparse_coo_tensor(index, csr.entries(wide), size, check_invariants=True) @ table.to(wide)
    return (alpha * (product if base is None else base + product)).to(table.dtype)


def _check(csr: CSR, x: torch.Tensor, num_layers: int, readout: str, transpose: CSR | None) -> None:
    if readout not in READOUTS:
        raise MmfastError(f"propagate_partitioned: readout is '{readout}'; choose one of {', '.join(READOUTS)}")
    if num_layers < 0:
        raise MmfastError(f"propagate_partitioned: num_layers is {num_layers}; choose 0 or more")
    for name, block in (("csr", csr), ("transpose", transpose)):
        if block is not None and block.num_rows != x.shape[0]:
            raise MmfastError(
                f"propagate_partitioned: {name} has {block.num_rows} rows, x {x.shape[0]}; wanted the rows of one rank"
            )
        if block is not None and learned(block):
            raise MmfastError(
                f"propagate_partitioned: {name}.values need a gradient, which the rows of one rank do not give; "
                "detach them, or call propagate with the whole graph"
            )
    if x.dim() < 2 or x.dtype not in DTYPES:
        raise MmfastError(
            f"propagate_partitioned: x is {x.dtype} {list(x.shape)}; wanted [R, D] or [R, T, D] of one of "
            f"{', '.join(map(str, DTYPES))}"
        )
