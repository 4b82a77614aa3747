"""The string that stands for an item in a text encoder: the standard one, or LATTICE's with its slip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from mmfast.data.readers.amazon_text import one_text, standard_text
from mmfast.errors import MmfastError

RAW_FIELDS = ("title", "brand", "categories", "description")
STRINGS = ("standard", "lattice")


def item_texts(items: pl.DataFrame, string: str = "standard") -> list[str]:
    """Return one string per item, "" for an item without text.

    standard: the column `text`, with the title and ". " before it unless it begins with the title. The readers of raw
    Amazon files put MMRec's string there: title, brand, first category path, description. A table without `text` but
    with the columns title, brand, categories (a list of paths) and description gets that string here.
    lattice: as `lattice_text`, from these four columns.
    Raises MmfastError for an unknown string, or where the columns are not there.

    >>> item_texts(pl.DataFrame({"title": ["Red kite"], "text": ["It flies."]}))
    ['Red kite. It flies.']
    """
    if string not in STRINGS:
        raise MmfastError(f"item string '{string}' is unknown; choose {' or '.join(STRINGS)}")
    absent = [name for name in RAW_FIELDS if name not in items.columns]
    if string == "lattice":
        if absent:
            raise MmfastError(
                f"the string of LATTICE needs the columns {', '.join(RAW_FIELDS)}; the items table lacks "
                f"{', '.join(absent)}. Prepare the raw files of 2014 (meta_*.json), or use the standard string"
            )
        return [lattice_text(*row) for row in items.select(RAW_FIELDS).iter_rows()]
    if "text" not in items.columns and not absent:
        rows = items.select(RAW_FIELDS).iter_rows()
        return [standard_text(title, brand, (paths or [[]])[0] or [], text) for title, brand, paths, text in rows]
    if not {"title", "text"} & set(items.columns):
        raise MmfastError(
            f"the items table has no column title or text (it has {', '.join(items.columns)}); give items.csv one of "
            "them and prepare again"
        )
    titles, texts = (_column(items, name) for name in ("title", "text"))
    return [_joined(title, text) for title, text in zip(titles, texts, strict=True)]


def need_texts(texts: list[str]) -> list[str]:
    """Return the texts. Raises MmfastError when no item has one.

    >>> need_texts(["", "A mug."])
    ['', 'A mug.']
    """
    if texts and not any(text.strip() for text in texts):
        raise MmfastError(
            f"none of the {len(texts)} items has a text: their titles and texts are empty; fill the column title or "
            "text of items.csv and prepare again"
        )
    return texts


def lattice_text(title: Any, brand: Any, paths: Sequence[Sequence[Any]] | None, description: Any) -> str:
    """Return the string of LATTICE's public script, which CKD's features come from; "" for an item without any field.

    A space, every category of every path with a space after it, the title, the TITLE again where there is a brand (the
    script never uses the brand), the description; newlines are spaces.

    >>> lattice_text("Kite", "Acme", [["Toys", "Kites"]], "It flies.")
    ' Toys Kites KiteKiteIt flies.'
    """
    categories = "".join(f"{entry} " for path in paths or () for entry in path)
    text = f" {categories}{title or ''}{(title or '') if brand else ''}{one_text(description)}"
    text = text.replace("\r", " ").replace("\n", " ")
    return text if text.strip() else ""


def _column(items: pl.DataFrame, name: str) -> list[str]:
    if name not in items.columns:
        return [""] * items.height
    return items[name].cast(pl.String).fill_null("").to_list()


def _joined(title: str, text: str) -> str:
    if not text.strip() or not title.strip():
        return text if text.strip() else title
    # A title may have come through with its blanks collapsed.
    begins = " ".join(text.split()).startswith(" ".join(title.split()))
    return text if begins else f"{title}. {text}"
