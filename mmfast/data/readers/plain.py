"""Plain folders: interactions.csv[.gz] or .parquet, optional items and users tables, any modality as `.npy`."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mmfast.data.raw import ItemDetails, RawData
from mmfast.data.readers.files import Sources, first_file, sources_with_features
from mmfast.data.readers.tables import (
    ITEM_NAMES,
    USER_NAMES,
    Coded,
    as_numbers,
    check_rows,
    code_by_appearance,
    code_by_table,
    column,
    drop_incomplete,
    interaction_columns,
    keep_numbers,
    matrix_features,
    read_table,
)

RENAMED = {"image_url": "image", "cover": "image"}


def find(folder: Path) -> Sources | None:
    """Return the files of a plain folder, None without interactions."""
    files: dict[str, Path] = {}
    for role in ("interactions", "items", "users"):
        path = first_file(folder, f"{role}.parquet", f"{role}.csv", f"{role}.csv.gz")
        if path is not None:
            files[role] = path
    if "interactions" not in files:
        return None
    return sources_with_features("plain", folder, files)


def read(sources: Sources, split_column: str) -> RawData:
    """Return the raw data of a plain folder.

    With an items (users) table, code = its row; whole numbers are kept when they are dense or features go by them;
    other ids are numbered by first appearance. A column asin, id or reviewer_id of a table is the original id.
    """
    path = sources.files["interactions"]
    rows, time_kind = interaction_columns(read_table(path), path, split_column)
    rows, incomplete = drop_incomplete(rows)
    users = _code(rows["user"], sources.files.get("users"), "user", USER_NAMES)
    items = _code(rows["item"], sources.files.get("items"), "item", ITEM_NAMES, sources)
    coded = rows.with_columns(pl.Series("user", users.codes), pl.Series("item", items.codes))
    return RawData(
        name=sources.folder.resolve().name,
        rows=coded,
        user_ids=users.ids,
        item_ids=items.ids,
        kept_users=users.kept,
        kept_items=items.kept,
        time_kind=time_kind,
        details=table_details(items),
        features=dict(matrix_features(sources, items, row_is_number=False)),
        incomplete_rows=incomplete,
    )


def table_details(items: Coded) -> ItemDetails | None:
    """Return the function that looks items up in their table; title, text and image get these names."""
    if items.table is None:
        return None
    taken = {c.lower() for c in items.table.columns}
    renamed = {c: RENAMED[c] for c in items.table.columns if c in RENAMED and RENAMED[c] not in taken}
    table = items.table.rename(renamed).with_columns(items.ids.alias("id"))
    if "title" in table.columns:
        table = table.with_columns(pl.col("title").fill_null(""))
    if "text" in table.columns:
        table = table.with_columns(pl.col("text").fill_null(""))
    ordered = table.select("id", pl.exclude("id"))
    return lambda ids: ids.to_frame("id").join(ordered, on="id", how="left", maintain_order="left")


def _code(
    ids: pl.Series, path: Path | None, kind: str, names: tuple[str, ...], numbered_by: Sources | None = None
) -> Coded:
    if path is not None:
        table = read_table(path)
        return code_by_table(ids, table, str(column(table, (*names, "id"), path)), kind, path)
    numbers = as_numbers(ids)
    if numbers is not None and numbered_by is not None and numbered_by.features:
        check_rows(numbers, numbered_by)
        return keep_numbers(numbers)
    if numbers is not None and numbers.n_unique() == (numbers.max() or 0) + 1:
        return keep_numbers(numbers)
    return code_by_appearance(ids)
