"""bpr_loss: the pairwise ranking loss of Rendle et al. (2009), gather, margin, loss and gradient in one op."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import register_gradient
from mmfast.ops.split_batch import batch_mean

KINDS = ("logsigmoid", "eps", "raw", "log2")


def bpr_loss(
    users: torch.Tensor,
    items: torch.Tensor,
    user_index: torch.Tensor,
    pos_index: torch.Tensor,
    neg_index: torch.Tensor,
    kind: str = "logsigmoid",
) -> torch.Tensor:
    """Return the mean over the batch of -ln sigmoid(m), m = u . (p - n), a scalar; differentiable once in both tables.

    users: float [Ru, D], items: float [Ri, D] of the same dtype; half precision, as under autocast, is computed in
    float32. user_index, pos_index, neg_index: int64 or int32 [B], the rows of user, positive and negative item.
    kind, the numerical form, s = sigmoid(m): "logsigmoid" is stable for every margin; "eps" is -ln(1e-10 + s); "raw" is
    -ln s and "log2" is -log2 s as written, infinite for very negative margins (their gradients stay finite).
    Raises MmfastError for an empty batch or arguments that do not fit.

    Example: `loss = bpr_loss(user_table, item_table, batch.users, batch.pos_items, batch.neg_items)`
    """
    users, items = (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (users, items))
    if kind not in KINDS:
        raise MmfastError(f"bpr_loss: kind is '{kind}'; choose one of {', '.join(KINDS)}")
    check_triples("bpr_loss", users, items, user_index, pos_index, neg_index)
    if not native("bpr_loss", users):
        return batch_mean(bpr_loss_reference(users, items, user_index, pos_index, neg_index, kind))
    return batch_mean(call_native("bpr_loss", users, items, user_index, pos_index, neg_index, kind)[0])


def bpr_loss_reference(
    users: torch.Tensor,
    items: torch.Tensor,
    user_index: torch.Tensor,
    pos_index: torch.Tensor,
    neg_index: torch.Tensor,
    kind: str = "logsigmoid",
) -> torch.Tensor:
    """Return what `bpr_loss` returns, in plain PyTorch."""
    margin = (users[user_index] * (items[pos_index] - items[neg_index])).sum(1)
    if kind == "logsigmoid":
        return -F.logsigmoid(margin).mean()
    if kind == "eps":
        return -torch.log(1e-10 + torch.sigmoid(margin)).mean()
    loss = -torch.log(torch.sigmoid(margin)).mean()
    return loss / math.log(2.0) if kind == "log2" else loss


def check_triples(
    op: str, users: torch.Tensor, items: torch.Tensor, user: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor
) -> None:
    """Raise MmfastError, in the name of `op`, unless the three indices are one batch of rows of the two tables."""
    if users.dim() != 2 or items.dim() != 2 or users.shape[1] != items.shape[1] or users.dtype != items.dtype:
        raise MmfastError(
            f"{op}: users is {users.dtype} {list(users.shape)}, items {items.dtype} {list(items.shape)}; "
            "wanted two tables [rows, D] of one dtype and width"
        )
    for name, index in (("user_index", user), ("pos_index", pos), ("neg_index", neg)):
        if index.dtype not in (torch.int64, torch.int32) or index.dim() != 1 or index.shape != user.shape:
            raise MmfastError(
                f"{op}: {name} is {index.dtype} {list(index.shape)}; wanted int64 or int32 [{user.shape[0]}]"
            )
    if user.shape[0] == 0:
        raise MmfastError(f"{op}: the batch is empty; wanted at least one (user, item, item) row")


def _fake(
    users: torch.Tensor, items: torch.Tensor, user: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    return users.new_empty(()), users.new_empty(user.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:5])
    ctx.mark_non_differentiable(output[1])  # the slope is the gradient's own intermediate


def _backward(ctx: Any, grad: torch.Tensor, _slope: Any) -> tuple[torch.Tensor | None, ...]:
    grad_users, grad_items = torch.ops.mmfast.bpr_loss_backward(grad, *ctx.saved_tensors)
    return grad_users, grad_items, None, None, None, None


def _fake_backward(
    grad: torch.Tensor, slope: torch.Tensor, users: torch.Tensor, items: torch.Tensor, *index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return users.new_empty(users.shape), items.new_empty(items.shape)


register("bpr_loss", _fake, _backward, _setup)
register_gradient("bpr_loss_backward", _fake_backward)
