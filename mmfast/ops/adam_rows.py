"""adam_rows_: one step of Adam (Kingma and Ba, 2015) on a table whose gradient is given for some of its rows."""

from __future__ import annotations

import math
from functools import partial

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register


@torch.no_grad()
def adam_rows_(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    rows: torch.Tensor,
    grad: torch.Tensor,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    step: int,
) -> None:
    """Step `param` and its moments in place as torch.optim.Adam would with a gradient of zero outside `rows`.

    Not a lazy Adam: the moments of every row decay and every row moves, in one pass and without a dense gradient.
    param, exp_avg, exp_avg_sq: float [N, F], contiguous. rows: int64 [R], sorted and unique. grad: float [R, F].
    weight_decay: the coupled one, added to the gradient of every row. step: 1 for the first step.
    Raises MmfastError for arguments that do not fit together.

    Example: `adam_rows_(table, m, v, rows, rows_grad, lr=1e-3, step=1)`
    """
    shapes = {"param": param, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "grad": grad}
    wanted = {name: param.shape for name in shapes} | {"grad": (rows.shape[0], param.shape[-1])}
    for name, tensor in shapes.items():
        if param.dim() != 2 or tensor.shape != wanted[name] or tensor.dtype != param.dtype:
            raise MmfastError(
                f"adam_rows_: {name} is {tensor.dtype} {list(tensor.shape)}; wanted {param.dtype} "
                f"{list(wanted[name])} for a table [N, F]"
            )
    if rows.dtype != torch.int64:
        raise MmfastError(f"adam_rows_: rows is {rows.dtype}; wanted int64")
    check_settings("adam_rows_", lr, beta1, beta2, eps)
    if step < 1:
        raise MmfastError(f"adam_rows_: step is {step}; wanted 1 for the first step")
    run = partial(call_native, "adam_rows_") if native("adam_rows_", param) else adam_rows_reference_
    run(param, exp_avg, exp_avg_sq, rows, grad, lr, beta1, beta2, eps, weight_decay, step)


@torch.no_grad()
def adam_rows_reference_(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    rows: torch.Tensor,
    grad: torch.Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> None:
    """Do what `adam_rows_` does, in plain PyTorch with a dense gradient."""
    dense = (weight_decay * param).index_add_(0, rows, grad)
    exp_avg.lerp_(dense, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(dense, dense, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2**step)).add_(eps)
    param.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))


def check_settings(op: str, lr: float, beta1: float, beta2: float, eps: float) -> None:
    """Raise MmfastError for settings that Adam cannot have."""
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise MmfastError(f"{op}: {name} is {beta}; wanted 0 or more and less than 1")
    for name, value in (("lr", lr), ("eps", eps)):
        if not 0 <= value < math.inf:
            raise MmfastError(f"{op}: {name} is {value}; wanted a finite number, 0 or more")


def _fake(*inputs: object) -> None:
    """Return nothing: the op writes in place."""


register("adam_rows_", _fake)
