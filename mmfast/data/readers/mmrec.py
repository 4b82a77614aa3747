"""MMRec folders: NAME.inter (tab separated, userID itemID x_label), image_feat.npy, text_feat.npy; ids are kept."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mmfast.data.raw import RawData
from mmfast.data.readers.files import Sources, first_file, sources_with_features
from mmfast.data.readers.tables import (
    Coded,
    as_numbers,
    check_rows,
    code_by_appearance,
    drop_incomplete,
    interaction_columns,
    keep_numbers,
    matrix_features,
    may_be_rows,
    read_table,
)


def find(folder: Path) -> Sources | None:
    """Return the files of an MMRec folder, None without a .inter file."""
    path = first_file(folder, "*.inter")
    if path is None:
        return None
    return sources_with_features("mmrec", folder, {"interactions": path})


def read(sources: Sources, split_column: str) -> RawData:
    """Return the raw data; U and I are the largest id of the whole file + 1, and row r of a feature is item r.

    Numbers too sparse to be row numbers (`may_be_rows`) are original ids, numbered by first appearance, unless
    features go by them: then every number must have its row.
    """
    path = sources.files["interactions"]
    frame = read_table(path, separator="\t")
    rows, time_kind = interaction_columns(frame, path, split_column)
    rows, incomplete = drop_incomplete(rows)
    users, items = _code(rows["user"]), _code(rows["item"], sources)
    return RawData(
        name=path.stem,
        rows=rows.with_columns(pl.Series("user", users.codes), pl.Series("item", items.codes)),
        user_ids=users.ids,
        item_ids=items.ids,
        kept_users=users.kept,
        kept_items=items.kept,
        time_kind=time_kind,
        features=dict(matrix_features(sources, items, row_is_number=False)),
        incomplete_rows=incomplete,
    )


def _code(ids: pl.Series, numbered_by: Sources | None = None) -> Coded:
    numbers = as_numbers(ids)
    if numbers is not None and numbered_by is not None and numbered_by.features:
        check_rows(numbers, numbered_by)
        return keep_numbers(numbers)
    return code_by_appearance(ids) if numbers is None or not may_be_rows(numbers) else keep_numbers(numbers)
