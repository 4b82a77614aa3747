"""The tiny CLIP of a catalogue: trained once, an open_clip folder, which tells photos by their texts."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from mmfast.content.images import find_pictures
from mmfast.data.prepared import read_table
from mmfast.errors import MmfastError
from mmfast.frameworks.ptmrec import small
from mmfast.frameworks.ptmrec.catalogue import Catalogue
from mmfast.frameworks.ptmrec.towers import check_clip
from tests.frameworks.shops import write_shop


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


def test_it_is_trained_once_and_loads_as_any_clip(tmp_path, monkeypatch):
    monkeypatch.setitem(small.TRAINING, "epochs", 25)
    monkeypatch.setitem(small.TRAINING, "held_out", 0.2)
    folder = write_shop(tmp_path / "shop")
    items = read_table(folder, "items.parquet")
    catalogue = Catalogue(find_pictures(items, [folder]), [title.split()[0] for title in items["title"]])
    name = catalogue.encoder_name("small")
    made = tmp_path / "cache" / "ptmrec" / name.rpartition("/")[2]
    about = json.loads((made / "retrieval.json").read_text())
    assert about["held_out_pairs"] == 4 and 0 <= about["top1"] <= 1
    monkeypatch.setattr(small, "_train", None)
    assert catalogue.encoder_name("small") == name
    from mmfast.content.encode_clip import clip_identity, load_clip

    clip, transform, tokenizer = load_clip(name)
    check_clip(clip)
    with torch.no_grad():
        photos = torch.stack([transform(Image.open(path)) for path in catalogue.pictures.paths])
        scores = clip.encode_image(photos, True) @ clip.encode_text(tokenizer(["Red", "Blue"]), True).t()
    assert (scores.argmax(1) == torch.arange(len(photos)) % 2).all()
    assert "open_clip_model.safetensors:" in clip_identity(name)
    with pytest.raises(MmfastError, match="learns from pictures with their texts"):
        Catalogue(None, catalogue.texts).encoder_name("small")
