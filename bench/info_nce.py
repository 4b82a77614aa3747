"""Time of InfoNCE in the batch and against all items, against eager PyTorch, which holds all scores.

Run from the repository: `python bench/info_nce.py [--shapes baby elec] [--batch 2048] [--json]`.
"""

from __future__ import annotations

import torch
from _common import shapes
from _losses import options, run, table

from mmfast.ops import info_nce


def main():
    """Measure the batch's own negatives, whose size no data set changes, then those of all items of each shape."""
    chosen = options(__doc__)
    batch, width = chosen.batch, chosen.width
    x = table(chosen, batch, width)
    for case, size in [("batch", batch), *((f"{name}, all", shapes[name].num_items) for name in chosen.shapes)]:
        y, index = table(chosen, size, width, seed=1), torch.arange(batch, device=chosen.device) % size
        least = 4 * 2 * batch * size * width  # scores twice, and a product for each gradient

        def loss(x, y, index=index):
            return info_nce(x, y, 0.2, index, negatives="all")

        scores = 4 * batch * size
        label = f"{case} {batch} x {size}"
        run(chosen, "info_nce", label, loss, (x, y), least_flops=least, eager_bytes=2 * scores)


if __name__ == "__main__":
    main()
