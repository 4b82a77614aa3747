"""Amazon reviews 2018: NAME.json[.gz] lines with reviewerID, asin, unixReviewTime, and meta_*.json[.gz] lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from mmfast.data.raw import RawData
from mmfast.data.readers.amazon_text import one_line, standard_text
from mmfast.data.readers.files import Sources, first_file, unnumbered
from mmfast.data.readers.lines import code_rows, collect_details, first_record, read_json_lines
from mmfast.errors import MmfastError

REVIEW_FIELDS = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"}
KEY = re.compile(rb'"asin"\s*:\s*"([^"]+)"')


def find(folder: Path) -> Sources | None:
    """Return the files; None without a file whose first line is such a review."""
    return find_json_lines(folder, "amazon2018", ("json.gz", "json"), REVIEW_FIELDS)


def read(sources: Sources, split_column: str) -> RawData:
    """Return the raw data; ids are numbered by first appearance, texts are read for the items that remain."""
    return read_reviews(sources, REVIEW_FIELDS, KEY, _describe)


def find_json_lines(folder: Path, name: str, endings: tuple[str, ...], fields: Mapping[str, str]) -> Sources | None:
    """Return the one file whose first line has `fields`, with its meta_ file. Raises MmfastError for two such files."""
    candidates = [path for ending in endings for path in sorted(folder.glob(f"*.{ending}"))]
    reviews = [
        path
        for path in candidates
        if not path.name.startswith("meta_") and set(fields.values()) <= first_record(path).keys()
    ]
    if not reviews:
        return None
    if len(reviews) > 1:
        listed = ", ".join(path.name for path in reviews)
        raise MmfastError(f"'{folder}' has several files of reviews ({listed}); keep one per folder")
    meta = first_file(folder, *(f"meta_*.{ending}" for ending in endings))
    files = {"reviews": reviews[0], **({"meta": meta} if meta else {})}
    return Sources(name, folder, files, passed_over=unnumbered(folder))


def read_reviews(sources: Sources, fields: Mapping[str, str], key: re.Pattern[bytes], describe: Any) -> RawData:
    """Return the raw data of JSON-lines reviews; `key` finds the item of a meta line, `describe` reads it."""
    for modality, path in sources.features.items():
        raise MmfastError(
            f"features '{modality}': the rows of '{path.name}' name no item, and raw files are numbered only when they "
            "are prepared; prepare first, then give the .npy file, row = item id, with the prepared folder"
        )
    path = sources.files["reviews"]
    coded, users, items, incomplete = code_rows(read_json_lines(path, fields), path)
    meta = sources.files.get("meta")

    def details(path: Path, ids: pl.Series) -> pl.DataFrame:
        return collect_details(path, ids, partial(_key_of, key), json.loads, describe)

    return RawData(
        name=sources.folder.resolve().name,
        rows=coded,
        user_ids=users.ids,
        item_ids=items.ids,
        time_kind="time",
        details=partial(details, meta) if meta else None,
        incomplete_rows=incomplete,
    )


def _key_of(key: re.Pattern[bytes], line: bytes) -> str | None:
    match = key.search(line)
    return match[1].decode("utf-8", "replace") if match else None


def _describe(item: Mapping[str, Any]) -> tuple[str, str, str]:
    text = standard_text(item.get("title"), item.get("brand"), item.get("category") or [], item.get("description"))
    images = item.get("imageURLHighRes") or item.get("imageURL") or item.get("image") or []
    first = images if isinstance(images, str) else next(iter(images), "")
    return one_line(item.get("title")), text, first
