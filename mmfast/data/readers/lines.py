"""Streaming of large line files, plain or gzip: reviews become coded interactions, lines of metadata item texts."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from mmfast.data.readers.tables import Coded, code_by_appearance, drop_incomplete, time_values
from mmfast.errors import MmfastError

BLOCK_BYTES = 32 << 20


def open_lines(path: Path) -> BinaryIO:
    """Open a file for reading bytes, through gzip when its name ends in .gz."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def blocks_of_lines(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the file in blocks of whole lines. Raises MmfastError for a compressed file that is cut short."""
    rest = b""
    try:
        with open_lines(path) as file:
            while block := file.read(block_bytes):
                whole, newline, tail = (rest + block).rpartition(b"\n")
                if newline:
                    yield whole + newline
                rest = tail
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MmfastError(f"'{path}' is cut short or damaged ({error}); copy it again") from None
    if rest:
        yield rest


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of every line that is not blank."""
    number = 0
    for block in blocks_of_lines(path):
        for line in block.splitlines():
            number += 1
            if line.strip():
                yield number, line


def first_record(path: Path) -> dict[str, Any]:
    """Return the first line of a JSON-lines file, {} when it is no JSON object."""
    try:
        with open_lines(path) as file:
            value = json.loads(file.readline(1 << 20) or b"null")
    except (ValueError, OSError, EOFError, zlib.error):
        return {}
    return value if isinstance(value, dict) else {}


def read_json_lines(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    """Return the named fields (output name -> field) of a JSON-lines file as strings, a block of lines at a time.

    Raises MmfastError naming the first line that is no JSON object with these fields' types.
    """
    schema = {field: pl.Int64 if name == "time" else pl.String for name, field in columns.items()}
    picked = [pl.col(field).alias(name) for name, field in columns.items()]
    parts, before = [], 0
    for block in blocks_of_lines(path):
        try:
            parts.append(pl.read_ndjson(io.BytesIO(block), schema=schema).select(picked))
        except pl.exceptions.PolarsError:
            at, reason = _first_bad_line(block.split(b"\n"), schema)
            raise MmfastError(
                f"'{path}' line {before + at + 1} cannot be read ({reason}); want one JSON object per line: correct or "
                "remove the line, or copy the file again"
            ) from None
        before += block.count(b"\n")
    if not parts:
        raise MmfastError(f"'{path}' is empty; want one JSON object per line")
    return pl.concat(parts)


def _first_bad_line(lines: list[bytes], schema: Mapping[str, Any]) -> tuple[int, str | None]:
    """Return the place of the first of `lines` that polars cannot read, found by halving, and what it says of it."""
    first, end = 0, len(lines)
    while end - first > 1:
        middle = (first + end) // 2
        first, end = (first, middle) if _problem(lines[first:middle], schema) else (middle, end)
    return first, _problem(lines[first:end], schema)


def _problem(lines: list[bytes], schema: Mapping[str, Any]) -> str | None:
    text = b"\n".join(lines)
    try:
        if text.strip():
            pl.read_ndjson(io.BytesIO(text), schema=schema)
    except pl.exceptions.PolarsError as error:
        return str(error).splitlines()[0]
    return None


def code_rows(rows: pl.DataFrame, path: Path) -> tuple[pl.DataFrame, Coded, Coded, int]:
    """Return (rows with int32 codes, users, items, rows left out because a value is missing)."""
    rows = rows.with_columns(time_values(rows["time"], path))
    rows, incomplete = drop_incomplete(rows)
    users = code_by_appearance(rows["user"])
    # The strings of one column are freed before the next is coded: they are most of the memory.
    rows = rows.with_columns(pl.Series("user", users.codes))
    items = code_by_appearance(rows["item"])
    return rows.with_columns(pl.Series("item", items.codes)), users, items, incomplete


def collect_details(
    path: Path,
    ids: pl.Series,
    key_of: Callable[[bytes], str | None],
    parse: Callable[[bytes], Mapping[str, Any]],
    describe: Callable[[Mapping[str, Any]], tuple[Any, ...]],
    more: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
) -> pl.DataFrame:
    """Return id, title, text, image for `ids`; items without a line get empty strings, the first of two lines counts.

    `more` are columns that `describe` gives after those three, null for an item without a line. `key_of` finds the id
    of a line cheaply, so that only lines of wanted items are parsed.
    """
    wanted = set(ids)
    found: dict[str, tuple[Any, ...]] = {}
    for number, line in lines_of(path):
        key = key_of(line)
        if key not in wanted or key in found:
            continue
        try:
            found[key] = describe(parse(line))
        except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as error:
            raise MmfastError(f"'{path.name}' line {number} (item {key}) cannot be read: {error}") from None
    empty = ("", "", "", *(None for _ in more or ()))
    rows = [found.get(item, empty) for item in ids]
    schema = {**dict.fromkeys(("title", "text", "image"), pl.String), **(more or {})}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.select(ids.alias("id"), pl.all())
