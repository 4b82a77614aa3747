"""target_pool: TargetMR's target-aware features (Eq. 20-21), the target beside its attention-pooled auxiliaries."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import register_gradient


def target_pool(target: torch.Tensor, aux: torch.Tensor, ptr: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Return [t || sum_k b_k a_k] of every item, float [R, 2D], b = softmax_k(w . [t || a_k]) over its auxiliaries.

    target: float [R, D], t; aux: float [A, D], the auxiliaries a of all items, those of item r in rows ptr[r] to
    ptr[r + 1]; ptr: int64 [R + 1]; attention: float [2D] or [2D, 1], w; one dtype, half precision, as under autocast,
    is computed in float32. An item without auxiliaries gets zeros. The target's half of w adds the same number to every
    logit of an item, so its gradient is exactly zero. Differentiable once in target, aux and attention.
    Raises MmfastError for arguments that do not fit.

    Example: `x_txt = target_pool(text_target, text_aux, text_ptr, self.attention_txt)`
    """
    attention = attention.reshape(-1)
    target, aux, attention = (
        t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (target, aux, attention)
    )
    _check(target, aux, ptr, attention)
    if not native("target_pool", target):
        return target_pool_reference(target, aux, ptr, attention)
    return call_native("target_pool", target, aux, ptr, attention)[0]


def target_pool_reference(
    target: torch.Tensor, aux: torch.Tensor, ptr: torch.Tensor, attention: torch.Tensor
) -> torch.Tensor:
    """Return what `target_pool` returns, in plain PyTorch, in the printed form."""
    num_items = target.shape[0]
    item = torch.repeat_interleave(torch.arange(num_items, device=ptr.device), ptr.diff(), output_size=aux.shape[0])
    logits = torch.cat([target[item], aux], 1) @ attention
    highest = logits.detach().new_full((num_items,), float("-inf")).scatter_reduce(0, item, logits.detach(), "amax")
    weights = torch.exp(logits - highest[item])
    weights = weights / weights.new_zeros(num_items).index_add(0, item, weights)[item]
    pooled = torch.zeros_like(target).index_add(0, item, weights.unsqueeze(1) * aux)
    return torch.cat([target, pooled], 1)


def _check(target: torch.Tensor, aux: torch.Tensor, ptr: torch.Tensor, attention: torch.Tensor) -> None:
    if target.dim() != 2 or aux.dim() != 2 or target.shape[1] != aux.shape[1] or target.dtype != aux.dtype:
        raise MmfastError(
            f"target_pool: target is {target.dtype} {list(target.shape)}, aux {aux.dtype} {list(aux.shape)}; "
            "wanted [R, D] and [A, D] of one dtype"
        )
    if attention.shape[0] != 2 * aux.shape[1] or attention.dtype != aux.dtype:
        raise MmfastError(
            f"target_pool: attention holds {attention.shape[0]} numbers of {attention.dtype}; "
            f"wanted {2 * aux.shape[1]} of {aux.dtype}, a target's and an auxiliary's width"
        )
    if ptr.dtype != torch.int64 or ptr.shape != (target.shape[0] + 1,):
        raise MmfastError(f"target_pool: ptr is {ptr.dtype} {list(ptr.shape)}; wanted int64 [{target.shape[0] + 1}]")


def _fake(
    target: torch.Tensor, aux: torch.Tensor, ptr: torch.Tensor, attention: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return target.new_empty(target.shape[0], 2 * target.shape[1]), aux.new_empty(aux.shape[0])


def _setup(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[1:])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: torch.Tensor, _weights: Any) -> tuple[torch.Tensor | None, ...]:
    weights, aux, ptr, attention = ctx.saved_tensors
    want_target, want_aux, _, want_attention = ctx.needs_input_grad
    grad_aux = grad_attention = None
    if want_aux or want_attention:
        grad_aux, grad_attention = torch.ops.mmfast.target_pool_backward(grad, weights, aux, ptr, attention, want_aux)
    return (
        grad[:, : aux.shape[1]] if want_target else None,
        grad_aux if want_aux else None,
        None,
        grad_attention if want_attention else None,
    )


def _fake_backward(
    grad: torch.Tensor,
    weights: torch.Tensor,
    aux: torch.Tensor,
    ptr: torch.Tensor,
    attention: torch.Tensor,
    want_aux: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return aux.new_empty(aux.shape[0] if want_aux else 0, aux.shape[1]), attention.new_empty(attention.shape)


register("target_pool", _fake, _backward, _setup)
register_gradient("target_pool_backward", _fake_backward)
