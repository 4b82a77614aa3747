"""Small tables for the terminal: aligned text that can also be piped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmfast.checkpoint import atomic_write
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    import polars as pl


def metric_lines(parts: Mapping[str, Mapping[str, float]]) -> str:
    """Return one row per metric name and cut-off, one column per part.

    >>> print(metric_lines({"valid": {"recall@5": 0.25}, "test": {"recall@5": 0.5}}))
    metric    valid    test
    recall@5  0.25000  0.50000
    """
    names = dict.fromkeys(name for metrics in parts.values() for name in metrics)
    rows = [[name, *(f"{metrics[name]:.5f}" for metrics in parts.values())] for name in names]
    return table([["metric", *parts], *rows])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of texts with columns aligned to the left and two blanks between them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def write_or_print(frame: pl.DataFrame, out: str | None) -> None:
    """Write a table to a .parquet or .csv file, or print it. Raises MmfastError for another kind of file."""
    if out is None:
        texts = [[_text(value) for value in row] for row in frame.iter_rows()]
        print(table([list(frame.columns), *texts]))
        return
    path = Path(out)
    writers = {".parquet": frame.write_parquet, ".csv": frame.write_csv}
    if path.suffix not in writers:
        raise MmfastError(f"--out '{out}': '{path.suffix}' is not known; write .parquet or .csv")
    atomic_write(path, writers[path.suffix])
    print(f"{frame.height} rows in {path}")


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
