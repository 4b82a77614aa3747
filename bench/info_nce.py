"""Time of InfoNCE in the batch and against a whole table, against eager PyTorch, which holds all scores."""

from __future__ import annotations

import torch
from _losses import options, run, table

from mmfast.ops import info_nce


def main():
    """Measure the batch's own negatives, then those of all items."""
    chosen = options(__doc__)
    batch, width = chosen.batch, chosen.width
    x = table(chosen, batch, width)
    for case, size in (("batch", batch), ("all", chosen.items)):
        y, index = table(chosen, size, width, seed=1), torch.arange(batch, device=chosen.device) % size
        least = 4 * 2 * batch * size * width  # scores twice, and a product for each gradient

        def loss(x, y, index=index):
            return info_nce(x, y, 0.2, index, negatives="all")

        run(chosen, "info_nce", f"{case} {batch} x {size}", loss, (x, y), least_flops=least)


if __name__ == "__main__":
    main()
