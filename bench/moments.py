"""Time of the moments of whole tables and of the cosine loss of a batch, against eager PyTorch."""

from __future__ import annotations

from _common import shapes
from _losses import options, run, table

from mmfast.ops import cosine_loss, moment_alignment, moments


def main():
    """Measure BM3's cosine of a batch; of each shape, the moments of a table and MENTOR's alignment of four."""
    chosen = options(__doc__)
    x, y = (table(chosen, chosen.batch, chosen.width, seed=s) for s in range(2))
    run(chosen, "cosine_loss", f"{chosen.batch} rows", cosine_loss, (x, y), least_bytes=4 * x.numel() * (2 + 6))
    for name in chosen.shapes:
        rows = shapes[name].num_nodes
        tables = tuple(table(chosen, rows, chosen.width, seed=s) for s in range(4))
        least = 3 * tables[0].nbytes  # read, read again, and the gradient written
        run(chosen, "moments", f"{name} {rows} rows", moments, tables[:1], least_bytes=least)
        run(chosen, "moment_alignment", f"{name} 4 x {rows} rows", moment_alignment, tables, least_bytes=4 * least)


if __name__ == "__main__":
    main()
