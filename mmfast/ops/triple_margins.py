"""triple_margins: by how much every triple's user prefers the positive item, the input of CKD's losses."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.ops._backend import call_native, native, register
from mmfast.ops.bpr_loss import check_triples


def triple_margins(
    users: torch.Tensor,
    items: torch.Tensor,
    user_index: torch.Tensor,
    pos_index: torch.Tensor,
    neg_index: torch.Tensor,
) -> torch.Tensor:
    """Return u . (p - n) of every triple, float [B]; differentiable once in both tables.

    users: float [Ru, D], items: float [Ri, D] of the same dtype; half precision, as under autocast, is computed in
    float32. user_index, pos_index, neg_index: int64 or int32 [B], the rows of user, positive and negative item.
    Raises MmfastError for an empty batch or arguments that do not fit.

    Example: `student = triple_margins(*model.embed(hide=("image",)), users, items, others)`
    """
    users, items = (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (users, items))
    check_triples("triple_margins", users, items, user_index, pos_index, neg_index)
    if not native("triple_margins", users):
        return triple_margins_reference(users, items, user_index, pos_index, neg_index)
    return call_native("triple_margins", users, items, user_index, pos_index, neg_index)


def triple_margins_reference(
    users: torch.Tensor, items: torch.Tensor, user: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor
) -> torch.Tensor:
    """Return what `triple_margins` returns, in plain PyTorch."""
    return (users[user] * (items[pos] - items[neg])).sum(1)


def _fake(
    users: torch.Tensor, items: torch.Tensor, user: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor
) -> torch.Tensor:
    return users.new_empty(user.shape)


def _setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    # bpr_loss scatters slope * grad; here every margin has a gradient of its own
    tables = torch.ops.mmfast.bpr_loss_backward(grad.new_ones(()), grad.contiguous(), *ctx.saved_tensors)
    return *tables, None, None, None


register("triple_margins", _fake, _backward, _setup)
