"""Time of a copied table and its gradient, against eager PyTorch: what the machinery of an op costs."""

from __future__ import annotations

from _common import shapes
from _losses import options, run, table

from mmfast.ops.template_op import template_op


def main():
    """Measure the rows of a batch, where the calls are most of it, and the tables of the shapes."""
    chosen = options(__doc__)
    for case, rows in [("batch", chosen.batch), *((name, shapes[name].num_nodes) for name in chosen.shapes)]:
        x = table(chosen, rows, chosen.width)
        run(chosen, "template_op", f"{case} {rows} rows", template_op, (x,), least_bytes=4 * x.numel() * 4)


if __name__ == "__main__":
    main()
