"""Pictures and token ids as CLIP's own transform and tokenizer give them, and rows for a batch and for all items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfast.content.encode_clip import load_clip
from mmfast.content.images import find_pictures
from mmfast.data.prepared import read_table
from mmfast.errors import MmfastError
from mmfast.frameworks.ptmrec import inputs as inputs_module
from mmfast.frameworks.ptmrec.encoder import ItemEncoder
from mmfast.frameworks.ptmrec.inputs import image_inputs, text_inputs
from mmfast.frameworks.ptmrec.tuning import TuningConfig, build_tuning, untuned
from tests.content import tiny

CPU = torch.device("cpu")
TITLES = ["Kite", "A long title of a red kite that flies high", "", "Kite", "Blue mug"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip_name(tmp_path_factory):
    return f"clip:{tiny.save_clip(tmp_path_factory.mktemp('models') / 'clip')}"


@pytest.fixture
def pictures(tmp_path):
    folder, photos = tiny.write_shop(tmp_path / "shop")
    (photos / "3.png").write_bytes(b"damaged")
    (photos / "5.png").write_bytes((photos / "4.png").read_bytes())
    return find_pictures(read_table(folder, "items.parquet"), [photos])


def test_pictures_are_decoded_once_and_come_out_as_the_models_transform_gives_them(pictures, clip_name, monkeypatch):
    _, transform, _ = load_clip(clip_name)
    inputs = image_inputs(pictures, transform)
    assert inputs.pixels.dtype == np.uint8 and isinstance(inputs.pixels, np.memmap)
    assert not inputs.known[3] and inputs.known.sum() == len(pictures.paths) - 1
    assert inputs.row[4] == inputs.row[5]
    items = np.array([7, 0, 4, 5, 7])
    from PIL import Image

    wanted = torch.stack([transform(Image.open(pictures.paths[item])) for item in items])
    torch.testing.assert_close(inputs.batch(items, CPU), wanted, rtol=0, atol=1e-6)

    def never(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(inputs_module, "_decode", never)
    assert np.array_equal(image_inputs(pictures, transform).pixels, inputs.pixels)


def test_texts_are_cut_at_the_longest_of_a_batch(clip_name):
    _, _, tokenizer = load_clip(clip_name)
    inputs = text_inputs(TITLES, tokenizer)
    assert inputs.known.tolist() == [True, True, False, True, True]
    assert inputs.lengths.tolist() == [3, 12, 0, 3, 4]
    assert torch.equal(inputs.batch(np.array([0, 4]), CPU), tokenizer([TITLES[0], TITLES[4]])[:, :4])
    assert [group.tolist() for group in inputs.groups(np.array([1, 4, 0]), 2)] == [[2, 1], [0]]
    with pytest.raises(MmfastError, match="none of the 1 items has a text"):
        text_inputs([" "], tokenizer)


def test_rows_of_a_batch_and_of_the_table_agree(pictures, clip_name):
    clip, transform, tokenizer = load_clip(clip_name)
    texts = [TITLES[item % 5] for item in range(len(pictures.paths))]
    inputs = {"image": image_inputs(pictures, transform), "text": text_inputs(texts, tokenizer)}
    encoder = ItemEncoder(clip, inputs, CPU, batch_size=6)
    tuning = build_tuning(clip, TuningConfig(prompt_depth=1), torch.Generator().manual_seed(0))
    items = np.array([1, 4, 6, 8, 9, 11, 13, 14, 16, 18, 19])
    for modality in ("image", "text"):
        table, rows = encoder.table(modality, tuning), encoder.rows(modality, tuning, items)
        torch.testing.assert_close(table[torch.from_numpy(items)], rows, rtol=1e-5, atol=1e-6)
        known = torch.from_numpy(inputs[modality].known)
        torch.testing.assert_close(table[~known], table[known].mean(0).expand(int((~known).sum()), -1))
        rows.sum().backward()
        assert tuning[modality].prompts.grad.abs().sum() > 0 and not table.requires_grad
    frozen = untuned(clip)
    with torch.no_grad():
        wanted = clip.encode_text(tokenizer([texts[item] for item in items]))
    torch.testing.assert_close(encoder.rows("text", frozen, items), wanted, rtol=1e-5, atol=1e-6)


def test_a_transform_of_another_make_is_refused(pictures):
    with pytest.raises(MmfastError, match=r"wanted one that ends with ToTensor and Normalize"):
        image_inputs(pictures, object())
