"""Time of TargetMR's attention pooling and of its contrastive loss, against eager PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _losses import options, run, table

from mmfast.ops import target_contrast, target_pool


def ragged(chosen, items, width, seed):
    """Return auxiliaries and their starts, 1 to 8 an item."""
    counts = torch.randint(1, 9, (items,), generator=torch.Generator().manual_seed(seed))
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return table(chosen, int(ptr[-1]), width, seed=seed), ptr.to(chosen.device)


def eager_contrast(image, aux, ptr, text, words, text_ptr):
    """Return Eq. 19 without a loop over items, all with both kinds of auxiliaries; the reference has one."""

    def log_sum(others, starts):
        item = torch.repeat_interleave(torch.arange(len(image), device=image.device), starts.diff())
        cosines = F.cosine_similarity(image[item], others)
        return torch.log(torch.zeros_like(image[:, 0]).index_add(0, item, cosines.exp()))

    positive = F.cosine_similarity(image, text)
    return -(positive + torch.logaddexp(-log_sum(aux, ptr), -log_sum(words, text_ptr))).mean()


def main():
    """Measure pooling of all items at CLIP's width, the attention trained, and the contrast of a batch of 512."""
    chosen = options(__doc__)
    items, width = chosen.items // 4, 512
    target, (aux, ptr), attention = (
        table(chosen, items, width),
        ragged(chosen, items, width, 1),
        table(chosen, 2 * width),
    )

    def pool(attention):
        return target_pool(target, aux, ptr, attention)

    # both passes read the auxiliaries, the first reads the targets and writes the result, the second reads its gradient
    least = 4 * width * (2 * len(aux) + items + 2 * items + items)
    run(chosen, "target_pool", f"{items} items, {len(aux)} auxiliaries", pool, (attention,), least_bytes=least)

    batch = 512
    image, text = table(chosen, 2, batch, width)
    (aux, ptr), (words, text_ptr) = ragged(chosen, batch, width, 1), ragged(chosen, batch, width, 2)

    def contrast(image, aux):
        return target_contrast(image, aux, ptr, text, words, text_ptr)

    def eager(image, aux):
        return eager_contrast(image, aux, ptr, text, words, text_ptr)

    least = 4 * width * (2 * batch + len(aux) + len(words) + 3 * (batch + len(aux)))
    run(chosen, "target_contrast", f"{batch} items", contrast, (image, aux), least_bytes=least, other=eager)


if __name__ == "__main__":
    main()
