"""edge_softmax: softmax over the incoming edges of every node."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import register_gradient


def edge_softmax(ptr: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the softmax of the logits of every row's entries, in the shape of logits; differentiable once.

    ptr: int64 [R + 1], the bounds of the rows among the entries. logits: float [E] or, for H softmaxes side by side,
    [E, H]; half precision is computed in float32. Raises MmfastError for arguments that do not fit.

    Example: `alpha = edge_softmax(edges.ptr, scores)`
    """
    if logits.dim() not in (1, 2) or not logits.is_floating_point():
        raise MmfastError(f"edge_softmax: logits is {logits.dtype} {list(logits.shape)}; wanted floats [E] or [E, H]")
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    if not native("edge_softmax", logits):
        return edge_softmax_reference(ptr, logits)
    return call_native("edge_softmax", ptr, logits)


def edge_softmax_reference(ptr: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return what `edge_softmax` returns, in plain PyTorch."""
    rows = torch.repeat_interleave(torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff())
    index = rows.reshape(-1, *[1] * (logits.dim() - 1)).expand_as(logits)
    shape = (ptr.numel() - 1, *logits.shape[1:])
    highest = logits.new_full(shape, -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
    weights = torch.exp(logits - highest[rows])
    return weights / logits.new_zeros(shape).index_add(0, rows, weights)[rows]


def _setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:
    ptr, alpha = ctx.saved_tensors
    return None, torch.ops.mmfast.edge_softmax_backward(ptr, grad, alpha)


register("edge_softmax", lambda ptr, logits: logits.new_empty(logits.shape), _backward, _setup)
register_gradient("edge_softmax_backward", lambda ptr, grad, alpha: alpha.new_empty(alpha.shape))
