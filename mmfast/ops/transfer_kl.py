"""transfer_kl: PTMRec's in-batch knowledge transfer (Eq. 11-13), every modality in one pass, never B x B in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_devices, native, register
from mmfast.ops._slopes import register_gradient, scaled

REDUCTIONS = ("batchmean", "mean", "none")


def transfer_kl(
    users: torch.Tensor,
    items: torch.Tensor,
    content: Sequence[torch.Tensor] | torch.Tensor,
    temperature: float = 1.0,
    *,
    detach_user: bool = False,
    reduction: str = "batchmean",
) -> torch.Tensor:
    """Return the sum over modalities of KL(P || Q_m), P = softmax_j(u_b . a_j / t) and Q_m = softmax_j(u_b . c_mj / t).

    users: float [B, D], the ID vectors u of the batch's users; items: float [B, D], the ID vectors a of its positive
    items; content: M tensors [B, D], or one [M, B, D], their projected features c; half precision, as under autocast,
    is computed in float32. P is a constant (Eq. 11): items get no gradient, users one through Q only, none where
    detach_user. reduction: "batchmean" sums over columns and averages rows, "mean" divides by B once more, "none" gives
    the rows [B].
    Raises MmfastError for an empty batch or arguments that do not fit.

    Example: `loss = transfer_kl(id_users[u], id_items[i], [linear["image"](image), linear["text"](text)])`
    """
    check_devices("transfer_kl", (users, items, content))
    if not isinstance(content, torch.Tensor):
        if any(features.shape != content[0].shape for features in content):
            shapes = [list(features.shape) for features in content]
            raise MmfastError(f"transfer_kl: content has the shapes {shapes}; wanted one, [B, D]")
        content = torch.stack(tuple(content)) if content else None
    users, items, content = (_full(t) for t in (users, items, content))
    _check(users, items, content, temperature, reduction)
    users, items = users.detach() if detach_user else users, items.detach()
    if not native("transfer_kl", users):
        loss = transfer_kl_reference(users, items, content, temperature)
    else:
        loss = call_native("transfer_kl", users, items, content, temperature)[0]
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "batchmean" else loss.mean() / users.shape[0]


def transfer_kl_reference(
    users: torch.Tensor, items: torch.Tensor, content: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the rows [B] of `transfer_kl`, in plain PyTorch."""
    target = torch.softmax(users @ items.T / temperature, 1).detach()
    loss = users.new_zeros(users.shape[0])
    for modality in content:
        log_q = torch.log_softmax(users @ modality.T / temperature, 1)
        loss = loss + F.kl_div(log_q, target, reduction="none").sum(1)
    return loss


def _full(t: torch.Tensor | None) -> torch.Tensor | None:
    return t.float() if t is not None and t.dtype in (torch.bfloat16, torch.float16) else t


def _check(
    users: torch.Tensor, items: torch.Tensor, content: torch.Tensor | None, temperature: float, reduction: str
) -> None:
    if reduction not in REDUCTIONS:
        raise MmfastError(f"transfer_kl: reduction is '{reduction}'; choose one of {', '.join(REDUCTIONS)}")
    if not temperature > 0:
        raise MmfastError(f"transfer_kl: temperature is {temperature}; choose a number above zero")
    if content is None or content.dim() != 3 or content.shape[0] == 0:
        raise MmfastError(
            "transfer_kl: there is no content; wanted one tensor [B, D] for each of one or more modalities"
        )
    for name, t in (("items", items), ("content", content)):
        if users.dim() != 2 or t.shape[-2:] != users.shape or t.dtype != users.dtype:
            raise MmfastError(
                f"transfer_kl: users is {users.dtype} {list(users.shape)}, {name} {t.dtype} {list(t.shape)}; "
                "wanted one dtype and one shape [B, D]"
            )
    if users.shape[0] == 0:
        raise MmfastError("transfer_kl: the batch is empty; wanted at least one (user, item) pair")


def _fake(
    users: torch.Tensor, items: torch.Tensor, content: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = users.shape[0]
    return users.new_empty(size), users.new_empty(2, 1 + content.shape[0], size), users.new_empty(users.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    ctx.temperature = inputs[3]
    ctx.save_for_backward(*output[1:], *inputs[:3])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    softmax, slope, *tables = ctx.saved_tensors
    grad_users = scaled(grad, slope) if ctx.needs_input_grad[0] else None
    grad_content = None
    if ctx.needs_input_grad[2]:
        grad_content = torch.ops.mmfast.transfer_kl_backward(grad.contiguous(), softmax, *tables, ctx.temperature)
    return grad_users, None, grad_content, None


def _fake_backward(
    grad: torch.Tensor,
    softmax: torch.Tensor,
    users: torch.Tensor,
    items: torch.Tensor,
    content: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    return content.new_empty(content.shape)


register("transfer_kl", _fake, _backward, _setup)
register_gradient("transfer_kl_backward", _fake_backward)
