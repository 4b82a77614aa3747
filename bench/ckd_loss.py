"""Time of CKD's distillation from margins, and from tables with the margins, against eager PyTorch."""

from __future__ import annotations

import torch
from _losses import options, run, table

from mmfast.ops import ckd_loss, triple_margins


def main():
    """Measure the paper's batch: 1,024 training and 5,000 universal triples, two modalities."""
    chosen = options(__doc__)
    size, universal = 1024, 5000
    margin, student, teacher = table(chosen, size), *table(chosen, 2, 2, size, seed=1)
    theirs, target = table(chosen, 2, 2, universal, seed=2)
    least = 4 * (size * (1 + 4 * 2) + universal * 3 * 2)
    for weights in ("paper", "code"):

        def loss(student, theirs, weights=weights):
            return ckd_loss(margin, student, teacher, theirs, target, weights=weights)[0]

        run(chosen, "ckd_loss", f"margins, {weights}", loss, (student, theirs), least_bytes=least)

    users, items = table(chosen, chosen.items, chosen.width), table(chosen, chosen.items, chosen.width, seed=1)
    index = torch.randint(0, chosen.items, (3, universal), generator=torch.Generator().manual_seed(0))
    user, pos, neg = index.to(chosen.device)

    def margins(users, items):
        return triple_margins(users, items, user, pos, neg)

    least = 4 * chosen.width * (9 * universal + 2 * chosen.items)
    run(chosen, "triple_margins", f"{universal} of {chosen.items}", margins, (users, items), least_bytes=least)


if __name__ == "__main__":
    main()
