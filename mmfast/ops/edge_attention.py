"""edge_attention: attention of every node over its incoming edges (GRCN, 2020; EgoGCN, 2022), fused."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, native, register
from mmfast.ops._slopes import register_gradient
from mmfast.ops.edge_softmax import edge_softmax_reference
from mmfast.ops.edges import Edges


def edge_attention(
    edges: Edges,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float = 1.0,
    choice: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (out [R, Dv], alpha [E]): out_r = sum of alpha_e v_e over the entries of row r, differentiable once.

    alpha_e = softmax over the row of scale * <q_r, k_e>; a row without entries gives zeros. Gradients flow through both
    results. No vector is kept per edge: beyond the results, the gradient takes one number per edge.

    q: float [R, D]. k: [C, D] and v: [C, Dv], of q's dtype: k_e and v_e are their rows cols[e]. With `choice`, bool
    [E], k and v hold two tables, one above the other, [2C, ...], and an entry whose choice is True takes its row from
    the second. Half precision is computed in float32. Raises MmfastError for arguments that do not fit.

    Example, GRCN: `heard, alpha = edge_attention(edges, x, x, x)`
    Example, EgoGCN's hard modulation: messages of strong edges are the mean over the modalities.

        _, alpha = edge_attention(edges, x, x, x)
        tables = torch.cat([x, mean_of_modalities])
        out, _ = edge_attention(edges, x, tables, tables, choice=alpha > 0.4)
    """
    q, k, v = (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (q, k, v))
    _check(edges, q, k, v, choice)
    if not native("edge_attention", q):
        return edge_attention_reference(edges, q, k, v, scale, choice)
    return call_native("edge_attention", *edges, choice, q, k, v, scale)


def edge_attention_reference(
    edges: Edges,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float = 1.0,
    choice: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `edge_attention` returns, in plain PyTorch, with a vector per edge."""
    rows = torch.repeat_interleave(torch.arange(edges.num_rows, device=q.device), edges.ptr.diff())
    source = edges.cols.long()
    if choice is not None:
        source = source + edges.num_cols * choice
    alpha = edge_softmax_reference(edges.ptr, scale * (q[rows] * k[source]).sum(1))
    return v.new_zeros(edges.num_rows, v.shape[1]).index_add(0, rows, alpha[:, None] * v[source]), alpha


def _check(edges: Edges, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, choice: torch.Tensor | None) -> None:
    sources = edges.num_cols * (1 if choice is None else 2)
    tables = {"q": (q, edges.num_rows, "D"), "k": (k, sources, "D"), "v": (v, sources, "Dv")}
    for name, (table, rows, width) in tables.items():
        if table.dim() != 2 or table.shape[0] != rows or table.dtype != q.dtype or not q.is_floating_point():
            got, wanted = f"{table.dtype} {list(table.shape)}", f"[{rows}, {width}] and floats of q's type"
            raise MmfastError(f"edge_attention: {name} is {got}; wanted {wanted}")
    if k.shape[1] != q.shape[1]:
        raise MmfastError(f"edge_attention: k is {list(k.shape)}, q {list(q.shape)}; wanted the same width")
    if choice is not None and (choice.dtype != torch.bool or choice.shape != edges.cols.shape):
        raise MmfastError(
            f"edge_attention: choice is {choice.dtype} {list(choice.shape)}; wanted bool [{edges.cols.numel()}]"
        )


def _fake(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    cols, q, v = inputs[1], inputs[6], inputs[8]
    return q.new_empty((q.shape[0], v.shape[1])), q.new_empty(cols.shape[0])


def _setup(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)  # one of the results often stays unused


def _backward(
    ctx: Any, grad_out: torch.Tensor | None, grad_alpha: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    if grad_out is None and grad_alpha is None:
        return (None,) * 10
    *tensors, alpha = ctx.saved_tensors
    grads = torch.ops.mmfast.edge_attention_backward(*tensors, ctx.scale, alpha, grad_out, grad_alpha)
    return (*[None] * 6, *grads, None)


def _fake_backward(*inputs: Any) -> tuple[torch.Tensor, ...]:
    return tuple(table.new_empty(table.shape) for table in inputs[6:9])


register("edge_attention", _fake, _backward, _setup)
register_gradient("edge_attention_backward", _fake_backward)
