"""Embedding regularisers of protocol section 8 on the rows of a batch."""

from __future__ import annotations

import torch

from mmfast.ops.gathered_norm import gathered_norm


def frobenius_reg(*gathered: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return R-FRO: the sum of |table[index]|_F over the pairs, divided by the rows of the last index.

    Norms, not squares: the gradient of each has constant length (models BPR-MF, LightGCN, VBPR of the MMRec family).
    """
    return sum(gathered_norm(table, index) for table, index in gathered) / gathered[-1][1].numel()


def half_square_reg(batch_size: int, *gathered: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return R-HALF: half the summed squares of table[index] over the pairs, divided by the CONFIGURED batch size."""
    return 0.5 * sum(gathered_norm(table, index).square() for table, index in gathered) / batch_size
