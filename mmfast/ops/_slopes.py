"""Gradients made of slopes that the forward pass saved, and the refusal of second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import register


def scaled(grad: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return grad * slope; grad is a scalar, or float [B] for a slope [B, D]. Its derivative is refused."""
    return torch.ops.mmfast.slope_backward(grad, slope)


def register_gradient(op: str, fake: Callable, of: str = "") -> None:
    """Give a native op that computes a gradient its fake kernel; a derivative of it is refused by a sentence.

    of: the op whose gradient it is, where that is not its own name without "_backward".
    """
    name = of or op.removesuffix("_backward")

    def refuse(ctx: Any, *grads: torch.Tensor) -> None:
        raise MmfastError(
            f"{name}: second derivatives are not provided; use MMFAST_BACKEND=reference where they are needed"
        )

    register(op, fake, refuse, lambda ctx, inputs, output: None)


register_gradient("slope_backward", lambda grad, slope: slope.new_empty(slope.shape))
