"""Time of CKD's distillation from margins, and from tables with the margins, against eager PyTorch."""

from __future__ import annotations

from _common import shapes
from _losses import index, options, run, table

from mmfast.ops import ckd_loss, triple_margins

TRAINING, UNIVERSAL = 1024, 5000  # the paper's batch of triples


def distillation(chosen):
    """Measure two modalities' loss; its size is that of the batch, whatever the data set."""
    margin, student, teacher = table(chosen, TRAINING), *table(chosen, 2, 2, TRAINING, seed=1)
    theirs, target = table(chosen, 2, 2, UNIVERSAL, seed=2)
    least = 4 * (TRAINING * (1 + 4 * 2) + UNIVERSAL * 3 * 2)
    for weights in ("paper", "code"):

        def loss(student, theirs, weights=weights):
            return ckd_loss(margin, student, teacher, theirs, target, weights=weights)[0]

        run(chosen, "ckd_loss", f"margins, {weights}", loss, (student, theirs), least_bytes=least)


def margins(chosen, name):
    """Measure the margins of the universal triples from the tables of one shape."""
    shape, width = shapes[name], chosen.width
    tables = table(chosen, shape.num_users, width), table(chosen, shape.num_items, width, seed=1)
    users = index(chosen, shape.num_users, UNIVERSAL)
    pos, neg = index(chosen, shape.num_items, 2, UNIVERSAL, seed=1)

    def loss(user_table, item_table):
        return triple_margins(user_table, item_table, users, pos, neg)

    # rows read in each direction, and the batch's rows added to gradients that are written whole
    least = 4 * width * (12 * UNIVERSAL + shape.num_nodes)
    label = f"{name} {UNIVERSAL} triples of {shape.num_nodes} rows"
    run(chosen, "triple_margins", label, loss, tables, least_bytes=least)


def main():
    """Measure the loss of a batch, and the margins at every shape."""
    chosen = options(__doc__)
    distillation(chosen)
    for name in chosen.shapes:
        margins(chosen, name)


if __name__ == "__main__":
    main()
