"""Features computed here against those that ship with a data set under MMFAST_DATA.

All rows of it, a quarter of an hour of one core: `MMFAST_ROWS=all pytest tests/content/test_published_features.py -s`.
"""

from __future__ import annotations

import os

import numpy as np
import polars as pl
import pytest

from mmfast.content.encode import EncodedFeatures
from mmfast.content.encoders import EncodeConfig, load_encoder
from mmfast.content.item_texts import item_texts
from mmfast.content.store import Store
from mmfast.data.load import load_dataset

pytestmark = pytest.mark.data

SAMPLE = "192"  # of 18,203 rows


def test_minilm_of_amazon_sports(tmp_path):
    assert os.environ.get("MMFAST_DATA"), "set MMFAST_DATA to the folder with the data sets"
    data = load_dataset("sports")
    texts, shipped = item_texts(data.item_table()), data.features["text"]
    empty = [item for item, text in enumerate(texts) if not text.strip()]
    assert len(empty) == 154 and data.missing["text"].tolist() == empty
    filled = np.setdiff1d(np.arange(data.num_items), empty)
    wish = os.environ.get("MMFAST_ROWS", SAMPLE)
    count = len(filled) if wish == "all" else int(wish)
    chosen = np.random.default_rng(0).choice(filled, count, replace=False)
    # The shipped rows were made with at most 128 word pieces.
    config = EncodeConfig(model="minilm", max_length=128, device="cpu")
    source = EncodedFeatures(load_encoder("text", config), [texts[n] for n in chosen], config, Store(tmp_path))
    source.write(tmp_path / "rows.npy", "text", np.arange(count), pl.Series([str(n) for n in chosen]))
    rows, wanted = np.load(tmp_path / "rows.npy"), np.asarray(shipped[chosen], np.float32)
    cosine = (rows * wanted).sum(1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted, axis=1))
    print(f"{count:,} rows: cosine at least {cosine.min():.6f}")
    assert cosine.min() > 0.999
