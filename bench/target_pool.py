"""Time of TargetMR's attention pooling and of its contrastive loss, against eager PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _common import leave_out, shapes
from _losses import options, run, table

from mmfast.ops import target_contrast, target_pool

WIDTH, BATCH = 512, 512  # of CLIP's vectors, and of the contrast's batch
TABLE_BYTES = 1 << 30
"""A larger table of auxiliaries is left out: eager PyTorch makes some twelve tables of its size."""


def ragged(chosen, items, seed):
    """Return auxiliaries and their starts, 1 to 8 an item."""
    counts = torch.randint(1, 9, (items,), generator=torch.Generator().manual_seed(seed))
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return table(chosen, int(ptr[-1]), WIDTH, seed=seed), ptr.to(chosen.device)


def eager_contrast(image, aux, ptr, text, words, text_ptr):
    """Return Eq. 19 without a loop over items, all with both kinds of auxiliaries; the reference has one."""

    def log_sum(others, starts):
        item = torch.repeat_interleave(torch.arange(len(image), device=image.device), starts.diff())
        cosines = F.cosine_similarity(image[item], others)
        return torch.log(torch.zeros_like(image[:, 0]).index_add(0, item, cosines.exp()))

    positive = F.cosine_similarity(image, text)
    return -(positive + torch.logaddexp(-log_sum(aux, ptr), -log_sum(words, text_ptr))).mean()


def pooling(chosen, name):
    """Measure the pooling of all items of a shape, the attention trained."""
    items = shapes[name].num_items
    if items * 4.5 * WIDTH * 4 > TABLE_BYTES:
        leave_out(f"target_pool {name}", f"{items} items with their auxiliaries are more memory than is asked for")
        return
    target, attention, (aux, ptr) = table(chosen, items, WIDTH), table(chosen, 2 * WIDTH), ragged(chosen, items, 1)

    def pool(attention):
        return target_pool(target, aux, ptr, attention)

    # both passes read the auxiliaries, the first reads the targets and writes the result, the second reads its gradient
    least = 4 * WIDTH * (2 * len(aux) + items + 2 * items + items)
    label = f"{name} {items} items, {len(aux)} auxiliaries"
    run(chosen, "target_pool", label, pool, (attention,), least_bytes=least)


def contrast(chosen):
    """Measure the contrast of a batch, whose size no data set changes."""
    image, text = table(chosen, 2, BATCH, WIDTH)
    (aux, ptr), (words, text_ptr) = ragged(chosen, BATCH, 1), ragged(chosen, BATCH, 2)

    def ours(image, aux):
        return target_contrast(image, aux, ptr, text, words, text_ptr)

    def eager(image, aux):
        return eager_contrast(image, aux, ptr, text, words, text_ptr)

    least = 4 * WIDTH * (2 * BATCH + len(aux) + len(words) + 3 * (BATCH + len(aux)))
    run(chosen, "target_contrast", f"{BATCH} items", ours, (image, aux), least_bytes=least, other=eager)


def main():
    """Measure the contrast of a batch, and the pooling at every shape."""
    chosen = options(__doc__)
    contrast(chosen)
    for name in chosen.shapes:
        pooling(chosen, name)


if __name__ == "__main__":
    main()
