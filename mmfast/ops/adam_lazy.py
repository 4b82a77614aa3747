"""Row-lazy Adam: only the rows of a batch are stepped; what the others miss is made up when they are next read.

The numbers are those of dense Adam (Kingma and Ba, 2015) up to rounding, unlike those of torch.optim.SparseAdam, which
drops the steps that a row misses. Without a gradient m and v only decay, so all the steps that a row missed have a
closed sum, and a continued fraction with at most four divisions gives it: see csrc/replay.h.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops.adam_rows import check_settings, step_number, step_tensor


class _Table(NamedTuple):
    param: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    row_steps: torch.Tensor


class _Settings(NamedTuple):
    lr: float
    beta1: float
    beta2: float
    eps: float
    step: int | torch.Tensor


@torch.no_grad()
def adam_catch_up_(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    row_steps: torch.Tensor,
    rows: torch.Tensor | None = None,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    step: int | torch.Tensor,
) -> None:
    """Make the steps without a gradient that rows have missed up to `step`, in place, as dense Adam would have.

    rows: int64 [R], in any order, repeats allowed: their parameters are made current, their moments still wait. None:
    parameters and moments of the whole table, whose state is then that of torch.optim.Adam after `step` steps.
    param, exp_avg, exp_avg_sq: float [N, F], contiguous. row_steps: int32 [N, 2], the step up to which a row's
    parameters (column 0) and moments (column 1) are made; 0 in column 1 where the moments are zero since the start.
    lr and the rest hold for all missed steps: catch up before changing them. There is no weight decay, which would
    move the rows that wait, and beta1 is below sqrt(beta2): see `can_wait`. step: in a captured graph a tensor, one
    int64 on the table's device that the graph counts up, for an int would stay that of the capture. Raises MmfastError
    for arguments that do not fit together and for a row that is made up to a later step already.

    Example: `adam_catch_up_(table, m, v, row_steps, batch_rows, lr=1e-3, step=steps_made)`
    """
    table, settings = _Table(param, exp_avg, exp_avg_sq, row_steps), _Settings(lr, beta1, beta2, eps, step)
    _check("adam_catch_up_", table, rows, settings)
    if native("adam_catch_up_", param):
        call_native("adam_catch_up_", *table, rows, *settings[:4], step_tensor("adam_catch_up_", step, 0, param))
    else:
        _catch_up_reference(table, rows, settings, step_number("adam_catch_up_", step, 0))


@torch.no_grad()
def adam_lazy_(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    row_steps: torch.Tensor,
    rows: torch.Tensor,
    grad: torch.Tensor,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    step: int | torch.Tensor,
) -> None:
    """Make step number `step` (from 1) of the rows with a gradient, after those that they missed; the others wait.

    rows: int64 [R], sorted and unique. grad: float [R, F]. The rest is as in `adam_catch_up_`. Parameters must be
    current before a gradient is taken: catch up the rows of a batch before its forward pass reads them.
    Raises MmfastError for arguments that do not fit together and for a row that has made this step already.

    Example: `adam_lazy_(table, m, v, row_steps, rows, rows_grad, lr=1e-3, step=steps_made + 1)`
    """
    table, settings = _Table(param, exp_avg, exp_avg_sq, row_steps), _Settings(lr, beta1, beta2, eps, step)
    _check("adam_lazy_", table, rows, settings)
    wanted = (rows.shape[0], param.shape[1])
    if grad.shape != wanted or grad.dtype != param.dtype:
        raise MmfastError(
            f"adam_lazy_: grad is {grad.dtype} {list(grad.shape)}; wanted {param.dtype} {list(wanted)}, a row per id"
        )
    if native("adam_lazy_", param):
        call_native("adam_lazy_", *table, rows, grad, *settings[:4], step_tensor("adam_lazy_", step, 1, param))
    else:
        _step_reference(table, rows, grad, settings, step_number("adam_lazy_", step, 1))


def can_wait(beta1: float, beta2: float) -> bool:
    """Return whether rows may wait under these betas: without a gradient a step is beta1 / sqrt(beta2) times the last.

    From 1 on each step moves a row further than the one before it, and there is no sum to make up.
    """
    return beta1 == 0 or beta1 < math.sqrt(beta2)


def _catch_up_reference(table: _Table, rows: torch.Tensor | None, settings: _Settings, step: int) -> None:
    """Do what `adam_catch_up_` does, in plain PyTorch, one missed step after another."""
    (param, exp_avg, exp_avg_sq, row_steps), (lr, beta1, beta2, eps, _) = table, settings
    whole = rows is None
    rows = torch.arange(param.shape[0], device=param.device) if whole else rows.unique()
    _check_made("adam_catch_up_", row_steps, rows, step, step)
    made = row_steps[rows, 0]
    row_steps[rows, 0] = step
    started = row_steps[rows, 1] > 0
    rows, made, moments = rows[started], made[started], row_steps[rows[started], 1]
    for missed in range(int(made.min()) + 1 if rows.numel() else step + 1, step + 1):
        late, older = rows[made < missed], (missed - moments[made < missed]).to(param.dtype)[:, None]
        m, v = exp_avg[late] * beta1**older, exp_avg_sq[late] * beta2**older
        denominator = v.sqrt() / math.sqrt(1 - beta2**missed) + eps
        param[late] -= lr / (1 - beta1**missed) * m / denominator
    if whole:
        older = (step - moments).to(param.dtype)[:, None]
        exp_avg[rows] *= beta1**older
        exp_avg_sq[rows] *= beta2**older
        row_steps[rows, 1] = step


def _step_reference(table: _Table, rows: torch.Tensor, grad: torch.Tensor, settings: _Settings, step: int) -> None:
    """Do what `adam_lazy_` does, in plain PyTorch."""
    (param, exp_avg, exp_avg_sq, row_steps), (lr, beta1, beta2, eps, _) = table, settings
    _check_made("adam_lazy_", row_steps, rows, step - 1, step)
    _catch_up_reference(table, rows, settings, step - 1)
    older = (step - 1 - row_steps[rows, 1]).to(param.dtype)[:, None]
    m = torch.lerp(exp_avg[rows] * beta1**older, grad, 1 - beta1)
    v = beta2 * (exp_avg_sq[rows] * beta2**older) + (1 - beta2) * grad * grad
    exp_avg[rows], exp_avg_sq[rows] = m, v
    param[rows] -= lr / (1 - beta1**step) * m / (v.sqrt() / math.sqrt(1 - beta2**step) + eps)
    row_steps[rows] = step


def _check_made(op: str, row_steps: torch.Tensor, rows: torch.Tensor, most: int, step: int) -> None:
    ahead = rows[row_steps[rows, 0] > most]
    if ahead.numel():
        made = int(row_steps[ahead[0], 0])
        raise MmfastError(f"{op}: row {int(ahead[0])} is made up to step {made}; wanted {most} or less for step {step}")


def _check(op: str, table: _Table, rows: torch.Tensor | None, settings: _Settings) -> None:
    param, _, _, row_steps = table
    check_settings(op, *settings[:4])
    if not can_wait(settings.beta1, settings.beta2):
        raise MmfastError(
            f"{op}: beta1 is {settings.beta1}, beta2 {settings.beta2}; wanted beta1 below sqrt(beta2), or a row that "
            "waits moves further at every step; step all rows with adam_rows_"
        )
    for name, tensor in zip(_Table._fields[:3], table[:3], strict=True):
        if param.dim() != 2 or tensor.shape != param.shape or tensor.dtype != param.dtype:
            raise MmfastError(
                f"{op}: {name} is {tensor.dtype} {list(tensor.shape)}; wanted {param.dtype} {list(param.shape)} "
                "for a table [N, F]"
            )
    if row_steps.dtype != torch.int32 or row_steps.shape != (param.shape[0], 2):
        raise MmfastError(
            f"{op}: row_steps is {row_steps.dtype} {list(row_steps.shape)}; wanted int32 [{param.shape[0]}, 2]"
        )
    if rows is not None and (rows.dtype != torch.int64 or rows.dim() != 1):
        raise MmfastError(f"{op}: rows is {rows.dtype} {list(rows.shape)}; wanted int64 [R]")


def _fake(*inputs: object) -> None:
    """Return nothing: the op writes in place."""


register("adam_catch_up_", _fake)
register("adam_lazy_", _fake)
