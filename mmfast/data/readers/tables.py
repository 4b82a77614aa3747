"""Tables of interactions and items: columns by their usual names, ids coded as numbers, features matched to items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmfast.data.ids import check_unique
from mmfast.data.raw import MatrixFile, open_matrix
from mmfast.data.readers.files import Sources, sidecar
from mmfast.data.splits import USUAL_COLUMN, USUAL_COLUMNS, read_labels
from mmfast.errors import MmfastError

USER_NAMES = ("user", "user_id", "userid", "reviewerid", "reviewer_id", "uid")
ITEM_NAMES = ("item", "item_id", "itemid", "parent_asin", "asin", "iid")
TIME_NAMES = ("time", "timestamp", "unixreviewtime", "pos")
DENSITY, ROOM = 10, 1_000_000
ID_NAMES = ("id", "asin", "reviewer_id", "reviewerid", "external_id")


@dataclass
class Coded:
    """Codes int32 [E] into `ids`; `kept` says that the codes are the data's own numbers."""

    codes: np.ndarray
    ids: pl.Series
    kept: bool
    table: pl.DataFrame | None = None


def read_table(path: Path, separator: str = ",", header: bool = True) -> pl.DataFrame:
    """Return a csv, csv.gz or parquet table; csv values stay strings, so that ids keep their zeros.

    Raises MmfastError when the file cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        table = pl.read_csv(path, separator=separator, has_header=header, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise MmfastError(f"'{path}' cannot be read ({str(error).splitlines()[0]}); check or copy it again") from None
    if all(name == name.strip() for name in table.columns):
        return table
    # "user, item": the blanks after the commas belong to no value either.
    return table.select(pl.col(name).str.strip_chars().alias(name.strip()) for name in table.columns)


def column(frame: pl.DataFrame, names: tuple[str, ...], path: Path, required: bool = True) -> str | None:
    """Return the first column that has one of `names`, whatever the case and a `:type` suffix."""
    by_name = {c.partition(":")[0].strip().lower(): c for c in reversed(frame.columns)}
    for name in names:
        if name in by_name:
            return by_name[name]
    if required:
        raise MmfastError(f"'{path.name}' has the columns {', '.join(frame.columns)}; want one of {', '.join(names)}")
    return None


def interaction_columns(frame: pl.DataFrame, path: Path, split_column: str) -> tuple[pl.DataFrame, str | None]:
    """Return (user, item[, time][, split labels]) and what `time` is: "time", or "pos", an order within a user."""
    picked = {"user": column(frame, USER_NAMES, path), "item": column(frame, ITEM_NAMES, path)}
    time = column(frame, TIME_NAMES, path, required=False)
    if time:
        picked["time"] = time
    labels = USUAL_COLUMNS if split_column == USUAL_COLUMN else (split_column.lower(),)
    split = column(frame, labels, path, required=False)
    if split is None and split_column != USUAL_COLUMN:
        raise MmfastError(
            f"'{path.name}' has no split column '{split_column}'; its columns are {', '.join(frame.columns)}"
        )
    rows = frame.select(pl.col(old).alias(new) for new, old in picked.items())
    for kind in ("user", "item"):
        check_not_negative(rows[kind], kind, path)
        check_one_way(rows[kind], kind, path)
    if time:
        rows = rows.with_columns(time_values(rows["time"], path))
    if split:
        rows = rows.with_columns(pl.Series("split", read_labels(frame[split]), pl.Int8))
    kind = None if time is None else ("pos" if time.lower().startswith("pos") else "time")
    return rows, kind


def time_values(times: pl.Series, path: Path) -> pl.Series:
    """Return times as int64; raises MmfastError naming a value that is no number."""
    if times.dtype.is_integer():
        return times.cast(pl.Int64)
    numbers = times.cast(pl.Float64, strict=False) if not times.dtype.is_numeric() else times
    bad = numbers.is_null() & times.is_not_null()
    if bad.any():
        raise MmfastError(f"'{path.name}': time '{times.filter(bad)[0]}' is not a number; give seconds as an integer")
    # Integers first: nanoseconds do not fit a double.
    return times.cast(pl.Int64, strict=False).fill_null(numbers.cast(pl.Int64, strict=False)).alias("time")


def drop_incomplete(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the rows that have a user, an item and, where there is one, a time; and how many had not."""
    needed = [c for c in ("user", "item", "time") if c in rows.columns]
    whole = rows.drop_nulls(needed)
    return whole, rows.height - whole.height


def as_numbers(ids: pl.Series) -> pl.Series | None:
    """Return ids as int64 when every one is a number from 0 written plainly, else None."""
    if ids.dtype.is_integer():
        numbers = ids.cast(pl.Int64)
    else:
        if ids.head(100).cast(pl.Int64, strict=False).null_count():
            return None
        numbers = ids.cast(pl.Int64, strict=False)
        if numbers.null_count() or not (numbers.cast(pl.String) == ids).all():
            return None
    return numbers if not len(ids) or (numbers.min() >= 0 and numbers.max() < 2**31 - 1) else None


def check_not_negative(ids: pl.Series, kind: str, path: Path) -> None:
    """Raise MmfastError naming the row when ids are whole numbers and one is negative; "-1" among words is a word."""
    if ids.dtype.is_integer():
        negative = ids < 0
    elif ids.dtype == pl.String and ids.str.starts_with("-").any():
        numbers = ids.cast(pl.Int64, strict=False)
        if numbers.null_count() > ids.null_count():
            return
        negative = numbers < 0
    else:
        return
    if negative.any():
        row = int(negative.arg_true()[0])
        raise MmfastError(
            f"'{path.name}': {kind} {ids[row]} in row {row + 1} (the header not counted) is negative; number the "
            f"{kind}s from 0, and leave the {kind} empty where there is none (such rows are left out and counted)"
        )


def check_one_way(ids: pl.Series, kind: str, path: Path) -> None:
    """Raise MmfastError naming the row when ids are whole numbers and some, not all, are written as 1.0."""
    if ids.dtype != pl.String or not ids.str.contains(".", literal=True).any():
        return
    pointed = ids.str.contains(r"^[0-9]+\.0*$")
    if pointed.all() or not (pointed | ids.str.contains(r"^[0-9]+$")).all():
        return
    row = int(pointed.arg_true()[0])
    raise MmfastError(
        f"'{path.name}': {kind} {ids[row]} in row {row + 1} (the header not counted) has a decimal point and others "
        f"have none ({int(pointed.sum())} such rows), so that one {kind} would be two; write every number without one"
    )


def may_be_rows(numbers: pl.Series) -> bool:
    """True when numbers are dense enough to be row numbers: the largest at most 10 x their number + 1,000,000.

    Others, such as article numbers of nine digits, would make tables of mostly empty rows: they are original ids.
    """
    return not len(numbers) or int(numbers.max()) <= DENSITY * len(numbers) + ROOM


def check_rows(numbers: pl.Series, sources: Sources) -> None:
    """Raise MmfastError when an item's number is beyond the rows of a feature file of `sources`."""
    largest = int(numbers.max()) if len(numbers) else -1
    for modality, path in sources.features.items():
        shape = open_matrix(path).shape
        if shape and largest >= shape[0]:
            raise MmfastError(
                f"features '{modality}' of '{path.name}' have {shape[0]} rows, for the items 0 to {shape[0] - 1}, but "
                f"item {largest} has interactions; correct the id, give one row per item, or add items.csv with one "
                "row per feature row"
            )


def code_by_appearance(ids: pl.Series) -> Coded:
    """Number ids in order of first appearance."""
    ids = ids.cast(pl.String)
    known = ids.unique(maintain_order=True)
    index = pl.DataFrame({"id": known}).with_row_index("code")
    codes = pl.DataFrame({"id": ids}).join(index, on="id", how="left", maintain_order="left")["code"]
    return Coded(codes.to_numpy().astype(np.int32), known.alias("id"), kept=False)


def keep_numbers(numbers: pl.Series, count: int | None = None) -> Coded:
    """Keep numbers as codes; there are max + 1 of them, or `count` when that is more."""
    count = max(int(numbers.max()) + 1 if len(numbers) else 0, count or 0)
    ids = pl.Series("id", np.arange(count)).cast(pl.String)
    return Coded(numbers.to_numpy().astype(np.int32), ids, kept=True)


def code_by_table(ids: pl.Series, table: pl.DataFrame, key: str, kind: str, path: Path) -> Coded:
    """Code ids by their row in `table`; keys 0..n-1 are sorted first, so that row = number.

    Raises MmfastError for a key that stands twice, or an id the table lacks.
    """
    keys = table[key].cast(pl.String)
    check_unique(kind, keys)
    numbers = as_numbers(table[key])
    if numbers is not None and len(numbers) and numbers.max() == len(numbers) - 1:
        order = numbers.arg_sort()
        table, keys = table[order], keys.gather(order)
    index = pl.DataFrame({"id": keys, "code": np.arange(len(keys), dtype=np.int32)})
    codes = pl.DataFrame({"id": ids.cast(pl.String)}).join(index, on="id", how="left", maintain_order="left")["code"]
    if codes.null_count():
        unknown = ids.cast(pl.String).filter(codes.is_null())
        raise MmfastError(
            f"{kind} '{unknown[0]}' has interactions but no row in '{path.name}' ({unknown.n_unique()} such {kind}s); "
            "add the rows or remove the file"
        )
    name = None if key == "id" else column(table.drop(key), ID_NAMES, path, required=False)
    shown = table[name].cast(pl.String).fill_null(keys) if name else keys
    check_unique(kind, shown)
    others = table.drop(key, *([name] if name else []))
    return Coded(codes.to_numpy().astype(np.int32), shown.alias("id"), kept=True, table=others)


def matrix_features(sources: Sources, items: Coded, row_is_number: bool) -> dict[str, MatrixFile]:
    """Return the feature files of `sources`, row = item code. Raises MmfastError when rows cannot be matched."""
    if sources.features and not (items.kept or row_is_number):
        raise MmfastError(
            f"'{sources.folder}' has features ({', '.join(sorted(sources.features))}) but nothing says which row "
            "belongs to which item; number the items 0..n-1, or add items.csv with one row per feature row"
        )
    return {modality: matrix_file(path, items) for modality, path in sources.features.items()}


def matrix_file(path: Path, items: Coded, row_of_item: np.ndarray | None = None) -> MatrixFile:
    """Return the source of one feature file, with the encoder and missing items its sidecar records."""
    about = sidecar(path)
    encoder = str(about.get("encoder") or about.get("model") or "unknown")
    missing = np.asarray(_codes_of(about.get("missing", []), items, path), np.int64)
    return MatrixFile(path, len(items.ids), row_of_item, encoder, missing)


def _codes_of(missing: Any, items: Coded, path: Path) -> list[int]:
    """Return the codes of the items that a sidecar lists: row numbers where rows are items, else original ids."""
    called = f"the .json beside '{path.name}'"
    if not isinstance(missing, list) or not all(type(item) in (int, str) for item in missing):
        raise MmfastError(f"{called} records as missing {str(missing)[:40]}; want a list of items, [] for none")
    if items.kept and all(isinstance(item, int) for item in missing):
        beyond = [item for item in missing if not 0 <= item < len(items.ids)]
        if beyond:
            raise MmfastError(
                f"{called} records the missing item {beyond[0]} but the items are 0 to {len(items.ids) - 1} "
                f"({len(beyond)} such entries); correct or remove them"
            )
        return missing
    known = {item: code for code, item in enumerate(items.ids)}
    unknown = [item for item in missing if str(item) not in known]
    if unknown:
        raise MmfastError(f"{called} records the missing item '{unknown[0]}', which is unknown; correct or remove it")
    return [known[str(item)] for item in missing]
