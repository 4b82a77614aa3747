"""The two item strings of the specification, and what other tables give."""

from __future__ import annotations

import polars as pl
import pytest

from mmfast.content.item_texts import item_texts, lattice_text
from mmfast.errors import MmfastError

RAW = pl.DataFrame(
    {
        "title": ["Blue Bear", None, ""],
        "brand": ["Toys Inc", "", None],
        "categories": [[["Toys", "Plush"], ["Kids"]], [["Books"]], None],
        "description": ["Soft\nbear", "Old", ""],
    },
    schema_overrides={"categories": pl.List(pl.List(pl.String))},
)


def test_the_standard_string_is_title_brand_first_path_description():
    assert item_texts(RAW) == ["Blue Bear Toys Inc Toys Plush Soft bear", "    Books Old", ""]


def test_the_string_of_lattice_has_every_path_and_its_title_twice():
    assert item_texts(RAW, "lattice") == [" Toys Plush Kids Blue BearBlue BearSoft bear", " Books Old", ""]
    assert lattice_text("T", None, [["a"]], None) == " a T"


def test_a_text_of_ones_own_gets_its_title_once():
    items = pl.DataFrame(
        {"title": ["Red kite", "Red kite", "Kite", None, ""], "text": ["It flies.", "Red  kite 2", None, "only", " "]}
    )
    assert item_texts(items) == ["Red kite. It flies.", "Red  kite 2", "Kite", "only", ""]
    assert item_texts(items.select("title")) == ["Red kite", "Red kite", "Kite", "", ""]
    assert item_texts(RAW.with_columns(text=pl.lit("Blue Bear, mine")))[0] == "Blue Bear, mine"


def test_missing_columns_are_named():
    with pytest.raises(MmfastError, match=r"LATTICE needs the columns title.*lacks brand, categories, description"):
        item_texts(pl.DataFrame({"title": ["a"]}), "lattice")
    with pytest.raises(MmfastError, match="has no column title or text"):
        item_texts(pl.DataFrame({"id": ["a"]}))
    with pytest.raises(MmfastError, match="item string 'x' is unknown; choose standard or lattice"):
        item_texts(RAW, "x")
