"""Embedding regularisers of protocol section 8 on the rows of a batch, or on whole tables where the index is None."""

from __future__ import annotations

import torch

from mmfast.ops.gathered_norm import gathered_norm
from mmfast.ops.split_batch import batch_count, batch_norm

Gathered = tuple[torch.Tensor, torch.Tensor | None]


def frobenius_reg(*gathered: Gathered) -> torch.Tensor:
    """Return R-FRO: the sum of |table[index]|_F over the pairs, divided by the rows of the last pair.

    Norms, not squares: the gradient of each has constant length (models BPR-MF, LightGCN, VBPR of the MMRec family,
    LGMRec; BM3 on its whole tables).

    Example: `reg = frobenius_reg((users, None), (items, None))`
    """
    return sum(_norm(*pair) for pair in gathered) / _rows(*gathered[-1])


def half_square_reg(batch_size: int, *gathered: Gathered) -> torch.Tensor:
    """Return R-HALF: half the summed squares of table[index] over the pairs, divided by the CONFIGURED batch size.

    Example: `reg = half_square_reg(batch.configured_size, (users, user), (items, pos), (items, neg))`
    """
    return 0.5 * sum(_norm(*pair).square() for pair in gathered) / batch_size


def mean_square_reg(*gathered: Gathered) -> torch.Tensor:
    """Return the sum over the pairs of the mean over all entries of table[index]^2 (GRCN, MMGCN, MENTOR, LIRDRec).

    Example: `reg = mean_square_reg((users, user), (items, torch.cat([pos, neg])), (preference, None))`
    """
    return sum(_norm(table, index).square() / (_rows(table, index) * table.shape[1]) for table, index in gathered)


def _norm(table: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    if index is not None:
        return batch_norm(gathered_norm(table, index))
    half = table.dtype in (torch.bfloat16, torch.float16)
    return torch.linalg.vector_norm(table, dtype=torch.float32 if half else None)


def _rows(table: torch.Tensor, index: torch.Tensor | None) -> int:
    return table.shape[0] if index is None else batch_count(index.numel())
