"""Small tables for the terminal: aligned text that can also be piped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from mmfast.errors import MmfastError

if TYPE_CHECKING:
    import polars as pl
    from pydantic.fields import FieldInfo


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


def option_lines(fields: Mapping[str, FieldInfo]) -> str:
    """Return one line per config field: name, type and default, meaning."""
    rows = [
        [
            f"  {key}",
            f"{kind_text(field.annotation)} = {field.get_default()!r}",
            " ".join((field.description or "").split()),
        ]
        for key, field in fields.items()
    ]
    return table(rows) if rows else ""


def kind_text(annotation: Any) -> str:
    """Return a type as a person writes it.

    >>> kind_text(Literal["concat", "channels"] | None)
    "'concat' | 'channels' | None"
    """
    parts = get_args(annotation)
    if annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if get_origin(annotation) is Annotated:
        return kind_text(parts[0])
    if get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in parts)
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(kind_text(part) for part in parts)
    return annotation.__name__ + (f"[{', '.join(kind_text(part) for part in parts)}]" if parts else "")


def write_or_print(frame: pl.DataFrame, out: str | None) -> None:
    """Write a table to a .parquet or .csv file, or print it. Raises MmfastError for another kind of file."""
    from mmfast.checkpoint import atomic_write

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
