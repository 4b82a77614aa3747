"""Amazon reviews 2023: NAME.jsonl[.gz] lines with user_id, parent_asin, timestamp, and meta_*.jsonl[.gz] lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfast.data.raw import RawData
from mmfast.data.readers.amazon2018 import find_json_lines, read_reviews
from mmfast.data.readers.amazon_text import one_line, standard_text
from mmfast.data.readers.files import Sources

REVIEW_FIELDS = {"user": "user_id", "item": "parent_asin", "time": "timestamp"}
KEY = re.compile(rb'"parent_asin"\s*:\s*"([^"]+)"')


def find(folder: Path) -> Sources | None:
    """Return the files; None without a file whose first line is such a review."""
    return find_json_lines(folder, "amazon2023", ("jsonl.gz", "jsonl"), REVIEW_FIELDS)


def read(sources: Sources, split_column: str) -> RawData:
    """Return the raw data; an item is a parent_asin, time is in milliseconds as published."""
    return read_reviews(sources, REVIEW_FIELDS, KEY, _describe)


def _describe(item: Mapping[str, Any]) -> tuple[str, str, str]:
    text = standard_text(item.get("title"), item.get("store"), item.get("categories") or [], item.get("description"))
    first = next(iter(item.get("images") or []), {})
    image = first.get("hi_res") or first.get("large") or first.get("thumb") or ""
    return one_line(item.get("title")), text, image
