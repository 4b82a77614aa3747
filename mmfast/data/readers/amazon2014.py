"""Amazon reviews 2014: ratings_*.csv or reviews_*.json, meta_*.json in Python-literal lines, image_features_*.b."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmfast.data.features import zero_rows
from mmfast.data.raw import FeatureSource, RawData
from mmfast.data.readers.amazon_text import one_line, one_text, standard_text
from mmfast.data.readers.files import Sources, first_file, unnumbered
from mmfast.data.readers.lines import code_rows, collect_details, read_json_lines
from mmfast.data.storage import new_matrix
from mmfast.errors import MmfastError

IMAGE_DIM = 4096
ASIN_BYTES = 10
RECORDS_PER_BLOCK = 512
RATING_COLUMNS = ["user", "item", "rating", "time"]
REVIEW_FIELDS = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"}
RAW_COLUMNS = {"brand": pl.String, "categories": pl.List(pl.List(pl.String)), "description": pl.String}
ASIN = re.compile(rb"""['"]asin['"]\s*:\s*['"]([^'"]+)['"]""")


def find(folder: Path) -> Sources | None:
    """Return the files, ratings before reviews; None without either."""
    ratings = first_file(folder, "ratings_*.csv", "ratings_*.csv.gz")
    reviews = ratings or first_file(folder, "reviews_*.json.gz", "reviews_*.json")
    if reviews is None:
        return None
    meta = first_file(folder, "meta_*.json.gz", "meta_*.json")
    images = first_file(folder, "image_features_*.b")
    files = {"ratings" if ratings else "reviews": reviews, **({"meta": meta} if meta else {})}
    features = {"image": images} if images else {}
    return Sources("amazon2014", folder, files, features, passed_over=unnumbered(folder))


def read(sources: Sources, split_column: str) -> RawData:
    """Return the raw data; ids are numbered by first appearance, texts are read for the items that remain."""
    path = sources.files.get("ratings")
    if path is not None:
        coded, users, items, incomplete = code_rows(read_ratings(path), path)
    else:
        path = sources.files["reviews"]
        coded, users, items, incomplete = code_rows(read_json_lines(path, REVIEW_FIELDS), path)
    meta = sources.files.get("meta")
    return RawData(
        name=sources.folder.resolve().name,
        rows=coded,
        user_ids=users.ids,
        item_ids=items.ids,
        time_kind="time",
        details=partial(read_meta, meta) if meta else None,
        features={modality: image_source(modality, file) for modality, file in sources.features.items()},
        incomplete_rows=incomplete,
    )


def read_ratings(path: Path) -> pl.DataFrame:
    """Return user, item, time (strings) of a ratings file without header: user, item, rating, timestamp."""
    try:
        # All values are read as strings: an ASIN such as 0439893577 must keep its zero.
        table = pl.scan_csv(path, has_header=False, infer_schema=False, glob=False)
        found = table.collect_schema().names()
        if len(found) != len(RATING_COLUMNS):
            raise MmfastError(
                f"'{path}' has {len(found)} columns; want four without a header: user, item, rating, timestamp"
            )
        table = table.rename(dict(zip(found, RATING_COLUMNS, strict=True)))
        return table.select("user", "item", "time").collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise MmfastError(f"'{path}' cannot be read ({str(error).splitlines()[0]}); copy it again") from None


def read_meta(path: Path, ids: pl.Series) -> pl.DataFrame:
    """Return id, title, text, image, brand, categories, description of the items.

    Lines are Python dictionaries, read without running them.
    """
    return collect_details(path, ids, _asin, _literal, _describe, RAW_COLUMNS)


def image_source(modality: str, path: Path) -> FeatureSource:
    """Return the source of image features. Raises MmfastError for a file whose rows name no item."""
    if path.suffix != ".b":
        raise MmfastError(
            f"features '{modality}': the rows of '{path.name}' name no item, and raw files are numbered only when they "
            "are prepared; prepare first, then give the .npy file, row = item id, with the prepared folder"
        )
    return ImageRecords(path)


@dataclass
class ImageRecords:
    """Records of 10 bytes ASIN and 4096 float32; an item without a record gets the mean of those that have one."""

    path: Path
    encoder: str = "amazon-cnn-4096"

    @property
    def origin(self) -> str:
        """Name of the source file."""
        return self.path.name

    def write(self, path: Path, modality: str, codes: np.ndarray, ids: pl.Series) -> np.ndarray:
        """Stream the records into [I, 4096] float32; return the positions of the items without a record."""
        record = np.dtype([("asin", f"S{ASIN_BYTES}"), ("feature", "<f4", (IMAGE_DIM,))])
        if self.path.stat().st_size % record.itemsize:
            raise MmfastError(
                f"'{self.path}' has {self.path.stat().st_size:,} bytes, no multiple of {record.itemsize:,} "
                "(10 bytes ASIN and 4096 float32 per item); it is cut short, copy it again"
            )
        place = {asin.encode(): at for at, asin in enumerate(ids)}
        target = new_matrix(path, np.dtype(np.float32), (len(ids), IMAGE_DIM))
        found, total = np.zeros(len(ids), bool), np.zeros(IMAGE_DIM)
        with self.path.open("rb") as file:
            while len(block := np.fromfile(file, record, RECORDS_PER_BLOCK)):
                for asin, feature in zip(block["asin"], block["feature"], strict=True):
                    at = place.get(bytes(asin))
                    if at is not None and not found[at]:
                        target[at], found[at] = feature, True
                        total += feature
        if not found.any():
            raise MmfastError(f"'{self.path}' has no record of any of the {len(ids)} items; is it of this category?")
        zeros = zero_rows(f"{modality}' of '{self.path.name}", target)
        missing = np.flatnonzero(~found)
        target[missing] = (total / found.sum()).astype(np.float32)
        target.flush()
        return np.union1d(missing, np.setdiff1d(zeros, missing)).astype(np.int64)


def _asin(line: bytes) -> str | None:
    match = ASIN.search(line)
    return match[1].decode("utf-8", "replace") if match else None


def _literal(line: bytes) -> Any:
    return ast.literal_eval(line.decode("utf-8").strip())


def _describe(item: Mapping[str, Any]) -> tuple[Any, ...]:
    paths = [[str(entry) for entry in path] for path in item.get("categories") or [[]]]
    title, brand, description = (item.get(name) for name in ("title", "brand", "description"))
    text = standard_text(title, brand, paths[0], description)
    return one_line(title), text, item.get("imUrl") or "", one_text(brand), paths, one_text(description)
