"""Sums, means and rows over a batch whose entries are divided among ranks; of one rank they are what they are given.

Every rank computes the loss of the whole batch from these, and the gradient of its own entries. The mean of the ranks'
gradients is then that of the whole batch, for what a loss takes of whole tables as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Split:
    """How many entries of the batch each rank has, all of them 1 or more, and which rank this is."""

    sizes: tuple[int, ...]
    rank: int

    @property
    def first(self) -> int:
        """Place of this rank's first entry in the batch."""
        return sum(self.sizes[: self.rank])

    @property
    def size(self) -> int:
        """Number of this rank's entries."""
        return self.sizes[self.rank]

    @property
    def weight(self) -> float:
        """This rank's share of the entries."""
        return self.size / sum(self.sizes)


_split: Split | None = None


@contextlib.contextmanager
def split_over(split: Split | None) -> Iterator[None]:
    """Let the losses inside be those of a batch of which this rank has its part of `split`; None: all of it."""
    global _split
    outer, _split = _split, split
    try:
        yield
    finally:
        _split = outer


def batch_mean(mean: torch.Tensor) -> torch.Tensor:
    """Return the mean over all entries from that over this rank's; of equal means, as over whole tables, that mean."""
    return mean if _split is None else _Sum.apply(mean * _split.weight, len(_split.sizes))


def batch_sum(total: torch.Tensor) -> torch.Tensor:
    """Return the sum over all entries from that over this rank's."""
    return total if _split is None else _Sum.apply(total, len(_split.sizes))


def batch_norm(norm: torch.Tensor) -> torch.Tensor:
    """Return the Frobenius norm over all entries' rows from that over this rank's; its gradient is 0 at 0."""
    return norm if _split is None else _Norm.apply(norm, len(_split.sizes))


def batch_count(count: int) -> int:
    """Return the number of rows over all entries from this rank's, which has as many for each entry."""
    return count if _split is None else count * sum(_split.sizes) // _split.size


def batch_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows [B, ...] of all entries in their order from this rank's, one for each entry."""
    return rows if _split is None else _Rows.apply(rows, _split)


def _summed(x: torch.Tensor) -> torch.Tensor:
    import torch.distributed as dist

    out = x.detach().clone()
    dist.all_reduce(out)
    return out


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, ranks: int) -> torch.Tensor:
        ctx.ranks = ranks
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.ranks, None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, norm: torch.Tensor, ranks: int) -> torch.Tensor:
        total = _summed(norm.square()).sqrt()
        ctx.slope = torch.where(total > 0, ranks * norm.detach() / total, 0.0)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.slope, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, split: Split) -> torch.Tensor:
        from mmfast.ranks import padded_rows

        ctx.split = split
        parts = padded_rows(rows.detach(), max(split.sizes))
        return torch.cat([part[:size] for part, size in zip(parts, split.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        split = ctx.split
        return grad[split.first : split.first + split.size] * len(split.sizes), None
