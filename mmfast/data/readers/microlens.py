"""MicroLens: *_pairs.csv (user, item, timestamp) or *_pairs.tsv (user, items in order), titles, covers, features."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from mmfast.data.raw import RawData, open_matrix
from mmfast.data.readers.files import Sources, first_file, sources_with_features
from mmfast.data.readers.lines import code_rows
from mmfast.data.readers.tables import Coded, as_numbers, check_one_way, column, matrix_file, read_table
from mmfast.errors import MmfastError

USER_NAMES = ("user", "userid", "user_id")
ITEM_NAMES = ("item", "videoid", "itemid", "item_id", "video_id")
TIME_NAMES = ("timestamp", "time")
COVER_TYPES = (".jpg", ".jpeg", ".png", ".webp")


def find(folder: Path) -> Sources | None:
    """Return the files; None without a *_pairs file."""
    pairs = first_file(folder, "*_pairs.csv", "*_pairs.csv.gz", "*_pairs.tsv")
    if pairs is None:
        return None
    titles = first_file(folder, "*title*.csv")
    covers = sorted(path for path in folder.glob("*cover*") if path.is_dir())
    files = {"pairs": pairs, **({"titles": titles} if titles else {})}
    listed = {"covers": covers[0]} if covers else {}
    return sources_with_features("microlens", folder, files, listed)


def read(sources: Sources, split_column: str) -> RawData:
    """Return the raw data; row r of a feature is the item numbered r, or r + 1 where numbers begin with 1.

    Raises MmfastError where pairs, titles and covers together leave open which of the two it is.
    """
    path = sources.files["pairs"]
    rows = _read_sequences(path) if path.suffix == ".tsv" else _read_pairs(path)
    coded, users, items, incomplete = code_rows(rows, path)
    titles, covers = sources.files.get("titles"), sources.listed.get("covers")
    named = [*(_read_titles(titles) if titles else ()), *(_cover_files(covers) if covers else ())]
    return RawData(
        name=sources.folder.resolve().name,
        rows=coded,
        user_ids=users.ids,
        item_ids=items.ids,
        time_kind="pos" if path.suffix == ".tsv" else "time",
        details=partial(_details, titles, covers) if titles or covers else None,
        features={m: matrix_file(p, items, _rows_of(p, items, named)) for m, p in sources.features.items()},
        incomplete_rows=incomplete,
    )


def _read_pairs(path: Path) -> pl.DataFrame:
    table = read_table(path)
    names = {"user": USER_NAMES, "item": ITEM_NAMES, "time": TIME_NAMES}
    rows = table.select(pl.col(str(column(table, known, path))).alias(name) for name, known in names.items())
    for kind in ("user", "item"):
        check_one_way(rows[kind], kind, path)
    return rows


def _read_sequences(path: Path) -> pl.DataFrame:
    table = read_table(path, separator="\t", header=False)
    if table.width != 2:
        raise MmfastError(f"'{path.name}' has {table.width} columns; want a user, a tab, and items parted by spaces")
    user, items = table.columns
    lists = table.select(pl.col(user).alias("user"), pl.col(items).str.strip_chars().str.split(" ").alias("item"))
    lists = lists.with_columns(pl.int_ranges(pl.col("item").list.len()).alias("time"))
    return lists.explode("item", "time").with_columns(pl.col("item").replace("", None))


def _rows_of(path: Path, items: Coded, named: list[str]) -> np.ndarray:
    """Return the feature row of every item code; `named`: the items of titles and covers.

    Raises MmfastError when numbers and rows do not fit, or fit in two ways.
    """
    numbers = as_numbers(items.ids)
    rows = len(np.atleast_1d(open_matrix(path)))  # a single number is refused with its shape when it is written
    if numbers is None:
        raise MmfastError(f"'{path.name}': items such as '{items.ids[0]}' are no numbers, so no row can be told theirs")
    known = {*numbers.to_list(), *(int(name) for name in named if name.isdecimal())}
    first = 1 if min(known) >= 1 and max(known) == rows else 0
    if min(known) >= 1 and max(known) < rows and not (named and max(known) == rows - 1):
        raise MmfastError(
            f"features '{path.name}' have {rows} rows and the items are numbered {min(known)} to {max(known)}: row 0 "
            "may be item 0 or item 1; add the titles of all items, or give interactions.csv, items.csv and a .npy "
            "file in the order of items.csv"
        )
    if numbers.max() - first >= rows:
        raise MmfastError(
            f"features '{path.name}' have {rows} rows but the items are numbered {numbers.min()} to {numbers.max()}; "
            "want one row for every number, from 0 or from 1"
        )
    return numbers.to_numpy().astype(np.int64) - first


def _details(titles: Path | None, covers: Path | None, ids: pl.Series) -> pl.DataFrame:
    columns = {"id": ids}
    if titles is not None:
        title = _read_titles(titles)
        columns["title"] = pl.Series([title.get(item, "") for item in ids], dtype=pl.String)
        columns["text"] = columns["title"]
    if covers is not None:
        image = _cover_files(covers)
        columns["image"] = pl.Series([image.get(item, "") for item in ids], dtype=pl.String)
    return pl.DataFrame(columns)


def _cover_files(covers: Path) -> dict[str, str]:
    return {path.stem: f"{covers.name}/{path.name}" for path in covers.iterdir() if path.suffix in COVER_TYPES}


def _read_titles(path: Path) -> dict[str, str]:
    # Titles are not always quoted: whatever follows the first comma is the title.
    with path.open(encoding="utf-8", newline="") as file:
        return {row[0].strip(): ",".join(row[1:]).strip() for row in csv.reader(file) if len(row) > 1}
