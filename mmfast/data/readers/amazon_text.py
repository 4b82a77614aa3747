"""The standard text of an Amazon item, as the MMRec preprocessing builds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def standard_text(title: Any, brand: Any, path: Sequence[Any], description: Any) -> str:
    """Return title + ' ' + brand + ' ' + the first category path, a space after each entry, + description.

    A missing field is one space, newlines become spaces; an item without any of them has the empty string.
    """
    categories = "".join(f"{entry} " for entry in path) or " "
    text = f"{title or ' '} {brand or ' '} {categories}{one_text(description) or ' '}"
    text = text.replace("\r", " ").replace("\n", " ")
    return text if text.strip() else ""


def one_text(value: Any) -> str:
    """Return a string, or a list of strings joined by spaces; "" for nothing."""
    if value is None:
        return ""
    return " ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def one_line(value: Any) -> str:
    """Return a text in one line, without spaces at the ends."""
    return " ".join(one_text(value).split())
