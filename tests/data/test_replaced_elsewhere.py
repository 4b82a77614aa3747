"""Features replaced in one preparation of a source are not silently missing under others, or once its files change."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest

from mmfast.data.load import load_dataset, prepared_folder
from mmfast.data.raw import MatrixFile
from mmfast.data.replace_features import replace_features
from tests.data.sources import numbered, plain_rows, write_plain

pytestmark = pytest.mark.filterwarnings("ignore:the features 'text'")
TEXT = "the features 'text' of 'shop' are"
SETTINGS = [
    {"split": "lattice"},
    {"split_seed": 7},
    {"k_core": 2},
    {"cold_users": "keep"},
    {"features": ["text"]},
]


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A plain folder of 10 items, the last of them with a single row, and a cache of its own."""
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))
    features = {"image_feat": numbered(10, 3), "text_feat": numbered(10, 2)}
    return write_plain(tmp_path / "shop", rows=[*plain_rows(), (0, 9)], features=features)


def replace(folder, encoder="light", **changes):
    """Replace the text features of the preparation under some settings."""
    made, _ = prepared_folder(str(folder), **changes)
    np.save(folder.parent / "new.npy", numbered(10, 5))
    replace_features(made, {"text": MatrixFile(folder.parent / "new.npy", 10, encoder=encoder)})
    return made


def change(folder):
    """Move the last row of the interactions to the front: other bytes, the same rows."""
    rows = (folder / "interactions.csv").read_text().splitlines()
    (folder / "interactions.csv").write_text("\n".join([rows[0], rows[-1], *rows[1:-1]]) + "\n")


def told(folder, **changes):
    """Return what is warned of when a data set is loaded."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        load_dataset(str(folder), **changes)
    return [str(one.message) for one in found]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_other_settings_tell_of_the_features_they_do_not_have(raw, changes):
    replace(raw)
    made, _ = prepared_folder(str(raw), **changes)
    (message,) = told(raw, **changes)
    assert message.startswith("the features 'text' of 'shop' are those of its files under these settings; under others")
    assert f"they were replaced (light). To have that encoder's here too, run `mmfast features '{made}'`" in message
    assert told(raw) == []
    replace(raw, encoder="minilm", **changes)
    assert told(raw, **changes) == told(raw) == []


def test_what_does_not_concern_the_others_is_not_told(raw):
    replace(raw, encoder="CLIP tuned by ptmrec")
    assert told(raw, split_seed=7) == []  # it belongs to the train rows of its split
    replace(raw, k_core=2)
    other = raw.parent / "elsewhere" / "shop"
    shutil.copytree(raw, other)
    change(other)
    assert told(other, split_seed=7) == []  # the replaced features are of another source


@pytest.mark.parametrize("changes", [{}, {"split_seed": 7}], ids=str)
def test_features_that_were_replaced_before_the_files_changed_are_told(raw, changes):
    replace(raw)
    for _ in range(2):
        change(raw)
        made, _ = prepared_folder(str(raw), **changes)
        (message,) = told(raw, **changes)
        assert message.startswith(f"{TEXT} those of its files now that its files changed; before, they were replaced (")
        assert f"To have that encoder's here too, run `mmfast features '{made}'`" in message
    replace(raw, **changes)
    assert told(raw, **changes) == []


def test_another_file_of_the_user_is_what_is_wanted(raw):
    replace(raw)
    np.save(raw / "text_feat.npy", numbered(10, 2) + 1)
    assert told(raw) == told(raw, features=["text"]) == []


def test_encoders_of_one_modality_are_told_in_one_sentence(raw):
    replace(raw)
    change(raw)
    replace(raw, encoder="minilm")
    change(raw)
    (message,) = told(raw)
    assert "before, they were replaced (light, minilm)" in message


def test_features_that_the_files_do_not_have_are_told_too(raw):
    (raw / "text_feat.npy").unlink()
    replace(raw)
    assert told(raw) == told(raw, features=["image"]) == []
    (message,) = told(raw, split_seed=7)
    assert message.startswith(f"{TEXT} missing under these settings; under others they were added (light)")
    change(raw)
    (message,) = told(raw)
    assert message.startswith(f"{TEXT} missing now that its files changed; before, they were added (light)")
    assert told(raw, features=["image"]) == []  # no other is wanted
