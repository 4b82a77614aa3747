"""adam_rows_: one step of Adam (Kingma and Ba, 2015) on a table whose gradient is given for some of its rows."""

from __future__ import annotations

import math

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register


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
    step: int | torch.Tensor,
) -> None:
    """Step `param` and its moments in place as torch.optim.Adam would with a gradient of zero outside `rows`.

    Not a lazy Adam: the moments of every row decay and every row moves, in one pass and without a dense gradient.
    param, exp_avg, exp_avg_sq: float [N, F], contiguous. rows: int64 [R], sorted and unique. grad: float [R, F].
    weight_decay: the coupled one, added to the gradient of every row. step: 1 for the first step; in a captured graph a
    tensor, one int64 on the table's device that the graph counts up, for an int would stay that of the capture.
    Raises MmfastError for arguments that do not fit together.

    Example: `adam_rows_(table, m, v, rows, rows_grad, lr=1e-3, step=1)`
    """
    _check(param, exp_avg, exp_avg_sq, rows, grad)
    check_settings("adam_rows_", lr, beta1, beta2, eps)
    settings = lr, beta1, beta2, eps, weight_decay
    if native("adam_rows_", param):
        number = step_tensor("adam_rows_", step, 1, param)
        call_native("adam_rows_", param, exp_avg, exp_avg_sq, rows, grad, *settings, number)
    else:
        made = step_number("adam_rows_", step, 1)
        adam_rows_reference_(param, exp_avg, exp_avg_sq, rows, grad, *settings, made)


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


def _check(
    param: torch.Tensor, exp_avg: torch.Tensor, exp_avg_sq: torch.Tensor, rows: torch.Tensor, grad: torch.Tensor
) -> None:
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


def check_settings(op: str, lr: float, beta1: float, beta2: float, eps: float) -> None:
    """Raise MmfastError for settings that Adam cannot have."""
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise MmfastError(f"{op}: {name} is {beta}; wanted 0 or more and less than 1")
    for name, value in (("lr", lr), ("eps", eps)):
        if not 0 <= value < math.inf:
            raise MmfastError(f"{op}: {name} is {value}; wanted a finite number, 0 or more")


def step_tensor(op: str, step: int | torch.Tensor, least: int, table: torch.Tensor) -> torch.Tensor:
    """Return the number of a step as the kernels read it; the values of a tensor are left to them."""
    if not isinstance(step, torch.Tensor):
        return torch.full((), step_number(op, step, least), dtype=torch.int64, device=table.device)
    _check_step(op, step)
    return step


def step_number(op: str, step: int | torch.Tensor, least: int) -> int:
    """Return the number of a step on the host. Raises MmfastError for one that no step has."""
    _check_step(op, step)
    number = step.item() if isinstance(step, torch.Tensor) else step
    if not least <= number < 2**31:
        raise MmfastError(f"{op}: step is {number}; wanted {least} to 2**31 - 1")
    return number


def _fake(*inputs: object) -> None:
    """Return nothing: the op writes in place."""


register("adam_rows_", _fake)


def _check_step(op: str, step: int | torch.Tensor) -> None:
    if not isinstance(step, torch.Tensor):
        check_whole(op, step=step)
    elif step.dtype != torch.int64 or step.numel() != 1:
        raise MmfastError(f"{op}: step is {step.dtype} {list(step.shape)}; wanted an int or a tensor of one int64")
