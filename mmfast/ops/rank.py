"""rank: the k best items of every user by inner product, train items left out, and which of them are hits."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register
from mmfast.ops.knn_graph import PRECISIONS


def rank(
    users: Tensor,
    items: Tensor,
    mask_ptr: Tensor,
    mask_items: Tensor,
    target_ptr: Tensor,
    target_items: Tensor,
    k: int,
    candidates: Tensor | None = None,
    precision: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (top_items int32 [B, k], top_scores [B, k], hits bool [B, k]): best first, the lower id among equals.

    users: [B, D] and items: [I, D] of one type, float32, float64, float16 or bfloat16; a score is the inner product,
    one sum in one order in float64, rounded to float32 (float64 for float64): equal items have equal scores. Masked
    are, for row b, mask_items[mask_ptr[b]:mask_ptr[b + 1]], ascending int32, with offsets int64 [B + 1]; they never
    appear. The targets have the same form: hits[b, r] says that top_items[b, r] is one. candidates: the only items
    ranked, ascending int32 [C]; None: all. Where fewer than k items are left the row ends in -1, -inf, False; a score
    of -inf counts as masked. The bits do not depend on the number of threads.
    precision: of the matrix products that propose items; all that their proven error leaves possible are decided, so
    the result is the same. "float32" means the type of the scores, "auto" bfloat16 where the device has units for it.
    Raises MmfastError for k above the number of items or candidates and for NaN scores, naming the first user row.

    >>> users, items, none = torch.tensor([[1.0]]), torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([0, 0])
    >>> ids = torch.tensor([0], dtype=torch.int32)
    >>> top_items, top_scores, hits = rank(users, items, torch.tensor([0, 1]), ids, none, ids[:0], k=3)
    >>> top_items.tolist(), top_scores.tolist(), hits.tolist()
    ([[2, 1, -1]], [[2.0, 1.0, -inf]], [[False, False, False]])
    """
    _check(items if candidates is None else candidates, "items" if candidates is None else "candidates", k, precision)
    arguments = (users.detach(), items.detach(), mask_ptr, mask_items, target_ptr, target_items)
    if not native("rank", users):
        return rank_reference(*arguments, k, candidates)
    return call_native("rank", *arguments, candidates, k, precision)


def _check(pool: Tensor, what: str, k: int, precision: str) -> None:
    check_whole("rank", k=k)
    if pool.dim() == 0:
        raise MmfastError(f"rank: {what} is {list(pool.shape)}; wanted items [I, D], candidates [C]")
    if not 1 <= k <= pool.shape[0]:
        raise MmfastError(f"rank: k={k} but there are only {len(pool)} {what}; choose 1 <= k <= {len(pool)}")
    if precision not in PRECISIONS:
        raise MmfastError(f"rank: precision='{precision}' is unknown; choose one of {', '.join(PRECISIONS)}")


def rank_reference(
    users: Tensor,
    items: Tensor,
    mask_ptr: Tensor,
    mask_items: Tensor,
    target_ptr: Tensor,
    target_items: Tensor,
    k: int,
    candidates: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `rank` returns up to rounding, from the whole [B, I] score matrix."""
    scores = users.to(_score_type(users)) @ items.to(_score_type(users)).T
    scores[_rows(mask_ptr), mask_items.long()] = -torch.inf
    if candidates is not None:
        left_out = torch.ones(items.shape[0], dtype=torch.bool, device=items.device)
        left_out[candidates.long()] = False
        scores.masked_fill_(left_out, -torch.inf)
    bad = torch.nonzero(scores.isnan().any(1))
    if len(bad):
        raise MmfastError(
            f"rank: the scores of user row {bad[0].item()} hold NaN; "
            "look for NaN or infinity in the user and item tables"
        )
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]  # stable: the lower id first among equals
    top_scores = scores.gather(1, order)
    targets = torch.zeros_like(scores, dtype=torch.bool)
    targets[_rows(target_ptr), target_items.long()] = True
    left = top_scores > -torch.inf
    return torch.where(left, order, -1).int(), top_scores, targets.gather(1, order) & left


def _rows(ptr: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff())


def _score_type(users: Tensor) -> torch.dtype:
    return torch.float64 if users.dtype == torch.float64 else torch.float32


def _fake(
    users: Tensor,
    items: Tensor,
    mask_ptr: Tensor,
    mask_items: Tensor,
    target_ptr: Tensor,
    target_items: Tensor,
    candidates: Tensor | None,
    k: int,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (users.shape[0], k)
    top_items, hits = users.new_empty(shape, dtype=torch.int32), users.new_empty(shape, dtype=torch.bool)
    return top_items, users.new_empty(shape, dtype=_score_type(users)), hits


register("rank", _fake)
