"""Time of the moments of whole tables and of the cosine loss of a batch, against eager PyTorch."""

from __future__ import annotations

from _losses import options, run, table

from mmfast.ops import cosine_loss, moment_alignment


def main():
    """Measure MENTOR's alignment of four tables and BM3's cosine of a batch."""
    chosen = options(__doc__)
    tables = tuple(table(chosen, chosen.items, chosen.width, seed=s) for s in range(4))
    least = 4 * 4 * tables[0].numel() * 3  # read, read again, and the gradient written
    run(chosen, "moments", f"alignment of 4 x {chosen.items}", moment_alignment, tables, least_bytes=least)
    x, y = (table(chosen, chosen.batch, chosen.width, seed=s) for s in range(2))
    run(chosen, "cosine_loss", f"{chosen.batch} rows", cosine_loss, (x, y), least_bytes=4 * x.numel() * (2 + 6))


if __name__ == "__main__":
    main()
