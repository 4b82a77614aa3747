"""Time of the norm of a batch's rows, and of the regularisers that are made of such norms, against eager PyTorch."""

from __future__ import annotations

from _common import shapes
from _losses import index, options, run, table

from mmfast.ops import frobenius_reg, gathered_norm, half_square_reg, mean_square_reg


def cases(chosen, name):
    """Measure the rows of a batch of triples of one shape."""
    rows, batch = shapes[name].num_nodes, chosen.batch
    x = table(chosen, rows, chosen.width)
    user, pos, neg = index(chosen, rows, 3, batch)
    read = 4 * chosen.width * batch
    label = f"{name} {batch} rows of {rows}"
    losses = {
        "gathered_norm": (1, lambda t: gathered_norm(t, user)),
        "frobenius_reg": (3, lambda t: frobenius_reg((t, user), (t, pos), (t, neg))),
        "half_square_reg": (3, lambda t: half_square_reg(batch, (t, user), (t, pos), (t, neg))),
        "mean_square_reg": (3, lambda t: mean_square_reg((t, user), (t, pos), (t, neg))),
    }
    for op, (times, loss) in losses.items():
        # the rows read in each direction and those of the gradient, a whole table for each norm, written
        run(chosen, op, label, loss, (x,), least_bytes=times * (2 * read + x.nbytes))


def main():
    """Measure a batch of triples of every shape."""
    chosen = options(__doc__)
    for name in chosen.shapes:
        cases(chosen, name)


if __name__ == "__main__":
    main()
