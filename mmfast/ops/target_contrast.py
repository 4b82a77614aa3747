"""target_contrast: TargetMR's contrastive loss (Eq. 19) of image and text targets against ragged auxiliaries."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import scaled


def target_contrast(
    image_target: torch.Tensor,
    image_aux: torch.Tensor,
    image_ptr: torch.Tensor,
    text_target: torch.Tensor,
    text_aux: torch.Tensor,
    text_ptr: torch.Tensor,
    temperature: float = 1.0,
    *,
    with_positive: bool = False,
) -> torch.Tensor:
    """Return the mean over items of -ln(e^a / sum_j e^cos(v, v_j) + e^a / sum_j e^cos(v, t_j)), a = cos(v, t).

    image_target, text_target: float [R, D], v and t of every item; image_aux [Ai, D], text_aux [At, D]: its auxiliaries
    v_j and t_j, those of item r in rows ptr[r] to ptr[r + 1] of each, ptr int64 [R + 1]; one dtype, half precision, as
    under autocast, is computed in float32. The positive is in neither denominator, as printed; with_positive puts it
    into both and temperature divides every cosine (the CLIP form, not the paper's). An item without auxiliaries on one
    side has the other ratio alone; one without any is left out of the mean, and the mean of no items is 0. Lengths are
    held above 1e-8. Differentiable once in image_target and image_aux; texts are constants.
    Raises MmfastError for an empty batch or arguments that do not fit.

    Example: `loss = target_contrast(refine(v), refine(image_aux), image_ptr, t, text_aux, text_ptr)`
    """
    tables = (image_target, image_aux, text_target, text_aux)
    image_target, image_aux, text_target, text_aux = (
        t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tables
    )
    given = image_target, image_aux, image_ptr, text_target.detach(), text_aux.detach(), text_ptr
    _check(*given, temperature)
    if not native("target_contrast", image_target):
        return target_contrast_reference(*given, temperature, with_positive)
    return call_native("target_contrast", *given, temperature, with_positive)[0]


def target_contrast_reference(
    image_target: torch.Tensor,
    image_aux: torch.Tensor,
    image_ptr: torch.Tensor,
    text_target: torch.Tensor,
    text_aux: torch.Tensor,
    text_ptr: torch.Tensor,
    temperature: float,
    with_positive: bool,
) -> torch.Tensor:
    """Return what `target_contrast` returns, in plain PyTorch, item by item as printed."""
    image_target, image_aux, text_target, text_aux = (
        F.normalize(t, eps=1e-8) for t in (image_target, image_aux, text_target, text_aux)
    )
    losses = []
    for r, (v, t) in enumerate(zip(image_target, text_target, strict=True)):
        positive = v @ t / temperature
        ratios = []
        for aux, ptr in ((image_aux, image_ptr), (text_aux, text_ptr)):
            others = aux[ptr[r] : ptr[r + 1]]
            if len(others):
                logits = others @ v / temperature
                logits = torch.cat([logits, positive.unsqueeze(0)]) if with_positive else logits
                ratios.append(positive - torch.logsumexp(logits, 0))
        if ratios:
            losses.append(-torch.logsumexp(torch.stack(ratios), 0))
    return torch.stack(losses).mean() if losses else (image_target * 0).sum()


def _check(
    image_target: torch.Tensor,
    image_aux: torch.Tensor,
    image_ptr: torch.Tensor,
    text_target: torch.Tensor,
    text_aux: torch.Tensor,
    text_ptr: torch.Tensor,
    temperature: float,
) -> None:
    if not temperature > 0:
        raise MmfastError(f"target_contrast: temperature is {temperature}; choose a number above zero")
    for name, t in (("image_aux", image_aux), ("text_target", text_target), ("text_aux", text_aux)):
        if (
            t.dim() != 2
            or image_target.dim() != 2
            or t.shape[1] != image_target.shape[1]
            or t.dtype != image_target.dtype
        ):
            raise MmfastError(
                f"target_contrast: image_target is {image_target.dtype} {list(image_target.shape)}, "
                f"{name} {t.dtype} {list(t.shape)}; wanted rows of one dtype and width"
            )
    size = image_target.shape[0]
    if size == 0 or text_target.shape[0] != size:
        raise MmfastError(
            f"target_contrast: there are {size} image targets and {text_target.shape[0]} text targets; "
            "wanted one of each for every item, and at least one item"
        )
    for name, ptr in (("image_ptr", image_ptr), ("text_ptr", text_ptr)):
        if ptr.dtype != torch.int64 or ptr.shape != (size + 1,):
            raise MmfastError(f"target_contrast: {name} is {ptr.dtype} {list(ptr.shape)}; wanted int64 [{size + 1}]")


def _fake(
    image_target: torch.Tensor, image_aux: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return image_target.new_empty(()), image_target.new_empty(image_target.shape), image_aux.new_empty(image_aux.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    target, aux = (
        scaled(grad, slope) if wanted else None
        for slope, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True)
    )
    return target, aux, None, None, None, None, None, None


register("target_contrast", _fake, _backward, _setup)
