"""Ragged rows: the objects of all items in one table, those of item v between two offsets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ragged(NamedTuple):
    """Rows [A, ...] of I items; those of item v are values[ptr[v] : ptr[v + 1]], ptr int64 [I + 1].

    >>> objects = Ragged(torch.arange(3.0)[:, None], torch.tensor([0, 2, 2, 3]))
    >>> objects.counts.tolist(), objects.take(torch.tensor([2, 0])).values.flatten().tolist()
    ([2, 0, 1], [2.0, 0.0, 1.0])
    """

    values: Tensor
    ptr: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of rows of each item, int64 [I]."""
        return self.ptr.diff()

    def owners(self) -> Tensor:
        """Return the item of every row, int64 [A]."""
        items = torch.arange(self.ptr.numel() - 1, device=self.ptr.device)
        return items.repeat_interleave(self.counts, output_size=len(self.values))

    def take(self, items: Tensor) -> Ragged:
        """Return the rows of some items [R], in their order, as a table of its own."""
        places, ptr = places_of(self.ptr, items)
        return Ragged(self.values.index_select(0, places), ptr)

    def split(self, chosen: Tensor) -> tuple[Tensor, Ragged]:
        """Return (the chosen row of each item [I, ...], the other rows); chosen int64 [I], -1 where there is none.

        An item without a choice gets a row of zeros and keeps all its rows among the others.
        """
        has = chosen >= 0
        rows = (self.ptr[:-1] + chosen)[has]
        target = self.values.new_zeros((len(chosen), *self.values.shape[1:]))
        target[has] = self.values.index_select(0, rows)
        others = torch.ones(len(self.values), dtype=torch.bool, device=self.ptr.device)
        others[rows] = False
        return target, Ragged(self.values[others], offsets(self.counts - has.long()))


def places_of(ptr: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return (rows int64 [n] of some items one after the other, their offsets int64 [R + 1])."""
    first, counts = ptr.index_select(0, items), ptr.diff().index_select(0, items)
    own = offsets(counts)
    total = int(own[-1])
    shift = (first - own[:-1]).repeat_interleave(counts, output_size=total)
    return torch.arange(total, device=ptr.device) + shift, own


def offsets(counts: Tensor) -> Tensor:
    """Return the offsets int64 [I + 1] of rows by their counts [I]."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def segment_argmax(scores: Tensor, ptr: Tensor) -> Tensor:
    """Return the place of each item's greatest score among its own, the first of equals, int64 [I]; -1 without any."""
    counts = ptr.diff()
    most = int(counts.max()) if len(counts) else 0
    if not most:
        return torch.full_like(counts, -1)
    best = padded(scores, ptr, float("-inf")).argmax(1)
    return best.masked_fill(counts == 0, -1)


def padded(scores: Tensor, ptr: Tensor, fill: float) -> Tensor:
    """Return ragged scores [A] as a table [I, most of an item], `fill` behind the last one of each."""
    counts = ptr.diff()
    inside = torch.arange(int(counts.max()), device=ptr.device) < counts[:, None]
    return scores.new_full(inside.shape, fill).masked_scatter(inside, scores)
