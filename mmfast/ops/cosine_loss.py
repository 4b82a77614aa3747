"""cosine_loss: the mean of 1 - cos over paired rows, the bootstrap losses of BM3 and BUIR."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import scaled
from mmfast.ops.split_batch import batch_mean


def cosine_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean over rows of 1 - cos(x_r, y_r), a scalar; differentiable once in x and y.

    x, y: float [B, D] of one dtype; half precision, as under autocast, is computed in float32. Lengths are held above
    1e-8. BUIR's 2 - 2 cos is twice this; detach the target's side.
    Raises MmfastError for empty tables or shapes that differ.

    Example: `loss = cosine_loss(predict(users), items.detach()) + cosine_loss(predict(items), users.detach())`
    """
    x, y = (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (x, y))
    if x.dim() != 2 or x.shape != y.shape or x.dtype != y.dtype or 0 in x.shape:
        raise MmfastError(
            f"cosine_loss: x is {x.dtype} {list(x.shape)}, y is {y.dtype} {list(y.shape)}; "
            "wanted one dtype and one shape [B, D] with B and D above zero"
        )
    if not native("cosine_loss", x):
        return batch_mean(cosine_loss_reference(x, y))
    return batch_mean(call_native("cosine_loss", x, y)[0])


def cosine_loss_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return what `cosine_loss` returns, in plain PyTorch."""
    return (1 - (F.normalize(x, eps=1e-8) * F.normalize(y, eps=1e-8)).sum(1)).mean()


def _fake(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return x.new_empty(()), x.new_empty(x.shape), y.new_empty(y.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    wanted = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
    return tuple(scaled(grad, slope) if want else None for slope, want in wanted)


register("cosine_loss", _fake, _backward, _setup)
