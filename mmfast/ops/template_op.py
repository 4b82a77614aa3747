"""template_op: a copy of a table, the pattern of a new op (docs/adding_an_op.md); no part of the public ops."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register


def template_op(x: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy of x, float [R, D]; differentiable any number of times, with the gradient as it comes.

    x: float [R, D]; half precision, as under autocast, is computed in float32.
    Raises MmfastError for another shape or type.

    Example: `copy = template_op(table)`
    """
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    if x.dim() != 2 or not x.is_floating_point():
        raise MmfastError(f"template_op: x is {x.dtype} {list(x.shape)}; wanted floating point [R, D]")
    if not native("template_op", x):
        return template_op_reference(x)
    return call_native("template_op", x)


def template_op_reference(x: torch.Tensor) -> torch.Tensor:
    """Return what `template_op` returns, in plain PyTorch."""
    return x.clone(memory_format=torch.contiguous_format)


def _fake(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


def _backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
    return torch.ops.mmfast.template_op(grad)


register("template_op", _fake, _backward)
