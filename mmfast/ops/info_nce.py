"""info_nce: the contrastive loss of protocol section 8 in tiles, never all scores at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_devices, native, register
from mmfast.ops._slopes import register_gradient, scaled
from mmfast.ops.split_batch import batch_mean, batch_rows, batch_sum

NEGATIVES = ("batch", "all")
REDUCTIONS = ("mean", "sum", "none")


def info_nce(
    x: torch.Tensor,
    y: torch.Tensor,
    temperature: float,
    index: torch.Tensor | None = None,
    *,
    normalize: bool = True,
    negatives: str = "batch",
    intra: bool = False,
    reduction: str = "mean",
) -> torch.Tensor:
    """Return the loss of telling, for every row of x, its own row of y from the others; differentiable once in x and y.

    Of anchor b with candidates c: -ln[ e(x_b, y_b) / sum_c e(x_b, y_c) ], e(a, b) = exp(cos(a, b) / temperature); the
    positive is one of the candidates, and repeated rows stay. x: float [B, D]; y: float [N, D] of the same dtype; half
    precision, as under autocast, is computed in float32. index: int64 [B], the positive row of y of every anchor;
    without it N = B and row b of y is the positive of row b of x.
    normalize: False takes inner products for cosines (SLMRec's FAC task). negatives: "batch" takes the B positive rows
    as candidates (NCE of protocol section 8: MGCN, SMORE, SLMRec), "all" every row of y (LGMRec, which also wants
    reduction "sum"; MENTOR). intra: every other anchor is a candidate too (MICRO). reduction: "mean", "sum", or "none"
    for float [B]. Memory grows with B D + N D, never with B N.
    Raises MmfastError for an empty batch or arguments that do not fit.

    Example: `loss = info_nce(side, embeddings, 0.2, batch.pos_items)`
    """
    x, y = (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (x, y))
    _check(x, y, temperature, index, negatives, reduction)
    if index is not None and negatives == "batch":
        x, y, index = batch_rows(x), batch_rows(y[index]), None
    loss = (_native if native("info_nce", x) else info_nce_reference)(x, y, temperature, index, normalize, intra)
    if reduction == "none":
        return loss
    # Anchors with an index are this rank's entries of the batch; the others are whole tables or batches.
    if index is None:
        return loss.mean() if reduction == "mean" else loss.sum()
    return batch_mean(loss.mean()) if reduction == "mean" else batch_sum(loss.sum())


def _native(
    x: torch.Tensor, y: torch.Tensor, temperature: float, index: torch.Tensor | None, normalize: bool, intra: bool
) -> torch.Tensor:
    anchors = torch.arange(x.shape[0], device=x.device)
    index = anchors if index is None else index
    skip = None
    if intra:
        y, skip = torch.cat([y, x]), anchors + y.shape[0]
    want_slope = torch.is_grad_enabled() and x.requires_grad
    return call_native("info_nce", x, y, index, skip, temperature, normalize, want_slope)[0]


def info_nce_reference(
    x: torch.Tensor,
    y: torch.Tensor,
    temperature: float,
    index: torch.Tensor | None = None,
    normalize: bool = True,
    intra: bool = False,
) -> torch.Tensor:
    """Return the losses [B] against all rows of y, in plain PyTorch, with all scores in memory."""
    x, y = (F.normalize(x), F.normalize(y)) if normalize else (x, y)
    scores = x @ y.T / temperature
    anchors = torch.arange(x.shape[0], device=x.device)
    positive = scores[anchors, anchors if index is None else index]
    if intra:
        among = (x @ x.T / temperature).fill_diagonal_(float("-inf"))
        scores = torch.cat([scores, among], 1)
    return scores.logsumexp(1) - positive


def _check(
    x: torch.Tensor, y: torch.Tensor, temperature: float, index: torch.Tensor | None, negatives: str, reduction: str
) -> None:
    if negatives not in NEGATIVES:
        raise MmfastError(f"info_nce: negatives is '{negatives}'; choose one of {', '.join(NEGATIVES)}")
    if reduction not in REDUCTIONS:
        raise MmfastError(f"info_nce: reduction is '{reduction}'; choose one of {', '.join(REDUCTIONS)}")
    check_devices("info_nce", (x, y, index))
    if not temperature > 0:
        raise MmfastError(f"info_nce: temperature is {temperature}; choose a number above zero")
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or x.dtype != y.dtype or not x.is_floating_point():
        raise MmfastError(
            f"info_nce: x is {x.dtype} {list(x.shape)}, y is {y.dtype} {list(y.shape)}; "
            "wanted two float tables [rows, D] of one dtype and width"
        )
    if x.shape[0] == 0:
        raise MmfastError("info_nce: the batch is empty; wanted at least one row of x")
    if index is None and x.shape[0] != y.shape[0]:
        raise MmfastError(
            f"info_nce: x has {x.shape[0]} rows and y has {y.shape[0]}; give index, the row of y of each row of x"
        )
    if index is not None and (index.dtype != torch.int64 or index.shape != x.shape[:1]):
        raise MmfastError(f"info_nce: index is {index.dtype} {list(index.shape)}; wanted int64 [{x.shape[0]}]")
    if index is not None and negatives == "batch":
        _check_index(index, y.shape[0])


def _check_index(index: torch.Tensor, rows: int) -> None:
    """Raise MmfastError for a row outside y, which is read before a kernel could look; a GPU is not waited for."""
    if torch.compiler.is_compiling() or type(index) is not torch.Tensor or not index.is_cpu:
        return
    least, most = (int(value) for value in index.aminmax())
    if least < 0 or most >= rows:
        raise MmfastError(f"info_nce: index holds ids from {least} to {most}; wanted 0 to {rows - 1}")


def _fake(
    x: torch.Tensor,
    y: torch.Tensor,
    index: torch.Tensor,
    skip: torch.Tensor | None,
    temperature: float,
    normalize: bool,
    want_slope: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    anchors = x.shape[0]
    return x.new_empty(anchors), x.new_empty(2, anchors), x.new_empty(anchors if want_slope else 0, x.shape[1])


def _setup(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    x, y, index, skip, ctx.temperature, ctx.normalize, want_slope = inputs
    _, softmax, slope = output
    if ctx.needs_input_grad[0] and not want_slope:
        raise MmfastError("mmfast::info_nce: x wants a gradient; pass want_slope=True")
    ctx.save_for_backward(softmax, slope, x, y, index, skip)
    ctx.mark_non_differentiable(softmax, slope)


def _backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    softmax, slope, x, y, index, skip = ctx.saved_tensors
    grad_x = scaled(grad, slope) if ctx.needs_input_grad[0] else None
    grad_y = None
    if ctx.needs_input_grad[1]:
        rest = x, y, index, skip, ctx.temperature, ctx.normalize
        grad_y = torch.ops.mmfast.info_nce_backward(grad.contiguous(), softmax, *rest)
    return grad_x, grad_y, None, None, None, None, None


def _fake_backward(
    grad: torch.Tensor, softmax: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *_: Any
) -> torch.Tensor:
    return y.new_empty(y.shape)


register("info_nce", _fake, _backward, _setup)
register_gradient("info_nce_backward", _fake_backward)
