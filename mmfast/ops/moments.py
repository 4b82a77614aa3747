"""moments: mean and variance of a whole table in one pass, and MENTOR's alignment of several tables by them."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import register_gradient


def moments(x: torch.Tensor) -> torch.Tensor:
    """Return the mean and the unbiased variance of all entries of x, float [2]; differentiable once.

    x: float32 or float64, any shape with at least two numbers; half precision, as under autocast, is computed in
    float32. Raises MmfastError for fewer numbers.

    Example: `mean, variance = moments(embeddings)`
    """
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    if x.numel() < 2:
        raise MmfastError(f"moments: x holds {x.numel()} numbers; a variance needs at least two")
    if not native("moments", x):
        return moments_reference(x)
    return call_native("moments", x)


def moments_reference(x: torch.Tensor) -> torch.Tensor:
    """Return what `moments` returns, in plain PyTorch."""
    return torch.stack([x.mean(), x.var()])


def moment_alignment(*tables: torch.Tensor) -> torch.Tensor:
    """Return the sum over pairs of |var(a) - var(b)| + |mean(a) - mean(b)|, a scalar (MENTOR's alignment loss).

    tables: two or more float tensors; variances are unbiased, over all entries. Raises MmfastError for fewer tables.

    Example: `loss = moment_alignment(guide, main, image, text)`
    """
    if len(tables) < 2:
        raise MmfastError(f"moment_alignment: got {len(tables)} tables; wanted two or more")
    each = [moments(table) for table in tables]
    return torch.stack([(a - b).abs().sum() for a, b in itertools.combinations(each, 2)]).sum()


def _setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(output, *inputs)


def _backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
    return torch.ops.mmfast.moments_backward(grad.contiguous(), *ctx.saved_tensors)


def _fake_backward(grad: torch.Tensor, moments: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


register("moments", lambda x: x.new_empty(2), _backward, _setup)
register_gradient("moments_backward", _fake_backward)
