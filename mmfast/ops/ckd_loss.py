"""ckd_loss: the counterfactual knowledge distillation of Zhang et al. (MM 2024), every modality in one op."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import scaled

SPECIFIC = ("hinge", "cross_entropy", "square")
WEIGHTS = ("paper", "code", "uniform", "ones")


def ckd_loss(
    margin: torch.Tensor,
    student: torch.Tensor,
    teacher: torch.Tensor,
    universal_student: torch.Tensor,
    universal_teacher: torch.Tensor,
    masked: torch.Tensor | None = None,
    *,
    generic_weight: float = 5.0,
    temperature: float = 0.1,
    specific: str = "hinge",
    weights: str = "paper",
    eps: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sum_m w_m (SD_m + generic_weight GD_m), a scalar, and the weights w [M]; the students get gradients.

    Margins s_ui - s_uj: margin [B] of the whole student, student [M, B] with only modality m kept, masked [M, B] with
    only m masked (None: student.flip(0), the same for two modalities), teacher [M, B]; universal_student and
    universal_teacher [M, G] of the universal triples; one dtype, half precision is computed in float32.
    SD_m (Eq. 11) is the mean of max(teacher - student, 0), with specific "cross_entropy" or "square" the ablations
    KL and MSE; GD_m (Eq. 12-13) the mean cross-entropy of sigmoid(student / temperature) under that of the teacher, as
    softplus(z) - a z, or with eps > 0 as the released code writes it, eps inside both logarithms.
    weights: "paper" (Eq. 15-18, bounded), "code" (one a triple, of sum 2, M = 2 only; w is their mean), and without
    re-weighting "uniform" ((M - 1) / M) or "ones". Weights, teachers, margin and masked are constants.
    Raises MmfastError for an empty batch or arguments that do not fit.

    Example: `loss, weights = ckd_loss(margin, student, teacher, universal_student, universal_teacher)`
    """
    given = (margin, student, student.flip(0) if masked is None else masked, teacher, universal_student)
    margin, student, masked, teacher, universal, target = (
        t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (*given, universal_teacher)
    )
    _check(margin, student, masked, teacher, universal, target, temperature, specific, weights)
    tensors = margin, student, masked, teacher, universal, target
    options = generic_weight, temperature, eps, specific, weights
    if not native("ckd_loss", student):
        return ckd_loss_reference(*tensors, *options)
    return call_native("ckd_loss", *tensors, *options)[:2]


def ckd_loss_reference(
    margin: torch.Tensor,
    student: torch.Tensor,
    masked: torch.Tensor,
    teacher: torch.Tensor,
    universal: torch.Tensor,
    target: torch.Tensor,
    generic_weight: float,
    temperature: float,
    eps: float,
    specific: str,
    weights: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `ckd_loss` returns, in plain PyTorch."""
    margin, masked, teacher, target = margin.detach(), masked.detach(), teacher.detach(), target.detach()
    if specific == "hinge":
        each = (teacher - student).clamp(min=0)
    elif specific == "square":
        each = (teacher - student).square()
    else:
        each = _cross_entropy(teacher, student, temperature, eps)
    generic = _cross_entropy(target, universal, temperature, eps).mean(1, keepdim=True)
    weight = _weights(margin, student.detach(), masked, teacher, weights)
    loss = (weight * (each + generic_weight * generic)).mean(1).sum()
    return loss, weight.expand_as(student).mean(1)


def _cross_entropy(teacher: torch.Tensor, student: torch.Tensor, temperature: float, eps: float) -> torch.Tensor:
    a, z = torch.sigmoid(teacher / temperature), student / temperature
    if eps == 0:
        return F.softplus(z, threshold=1e9) - a * z
    return -(a * torch.log(torch.sigmoid(z) + eps) + (1 - a) * torch.log(torch.sigmoid(-z) + eps))


def _weights(
    margin: torch.Tensor, student: torch.Tensor, masked: torch.Tensor, teacher: torch.Tensor, kind: str
) -> torch.Tensor:
    num_modalities = student.shape[0]
    if kind in ("uniform", "ones"):
        value = 1.0 if kind == "ones" else 1 - 1 / num_modalities
        return student.new_full((num_modalities, 1), value)
    if kind == "paper":
        share = (margin - masked).mean(1, keepdim=True) / teacher.mean(1, keepdim=True).clamp(min=1e-8)
    else:
        share = (margin - masked) / student
    share = share.nan_to_num(1e-8, posinf=10.0, neginf=1e-8).clamp(1e-8, 10)
    return (1 if kind == "paper" else 2) * (1 - share / share.sum(0))


def _check(
    margin: torch.Tensor,
    student: torch.Tensor,
    masked: torch.Tensor,
    teacher: torch.Tensor,
    universal: torch.Tensor,
    target: torch.Tensor,
    temperature: float,
    specific: str,
    weights: str,
) -> None:
    if specific not in SPECIFIC:
        raise MmfastError(f"ckd_loss: specific is '{specific}'; choose one of {', '.join(SPECIFIC)}")
    if weights not in WEIGHTS:
        raise MmfastError(f"ckd_loss: weights is '{weights}'; choose one of {', '.join(WEIGHTS)}")
    if not temperature > 0:
        raise MmfastError(f"ckd_loss: temperature is {temperature}; choose a number above zero")
    if student.dim() != 2 or universal.dim() != 2 or 0 in student.shape or 0 in universal.shape:
        raise MmfastError(
            f"ckd_loss: student is {list(student.shape)}, universal_student {list(universal.shape)}; "
            "wanted margins [M, B] and [M, G], none of them empty"
        )
    shapes = {"margin": student.shape[1:], "masked": student.shape, "teacher": student.shape}
    shapes |= {"universal_student": (student.shape[0], universal.shape[1]), "universal_teacher": universal.shape}
    for (name, shape), t in zip(shapes.items(), (margin, masked, teacher, universal, target), strict=True):
        if t.shape != torch.Size(shape) or t.dtype != student.dtype:
            raise MmfastError(
                f"ckd_loss: {name} is {t.dtype} {list(t.shape)}; wanted {student.dtype} {list(shape)} like student"
            )
    if weights == "code" and student.shape[0] != 2:
        raise MmfastError(
            f"ckd_loss: weights 'code' is defined for 2 modalities, got {student.shape[0]}; choose 'paper'"
        )


def _fake(
    margin: torch.Tensor, student: torch.Tensor, masked: torch.Tensor, teacher: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    universal = rest[0]
    return (
        student.new_empty(()),
        student.new_empty(student.shape[0]),
        student.new_empty(student.shape),
        universal.new_empty(universal.shape),
    )


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    student, universal = (scaled(grad, slope) for slope in ctx.saved_tensors)
    return None, student, None, None, universal, None, None, None, None, None, None


register("ckd_loss", _fake, _backward, _setup)
