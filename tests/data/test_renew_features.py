"""Features that were replaced in one preparation of a source are used under all other settings of it."""

from __future__ import annotations

import numpy as np
import pytest

from mmfast.data.load import load_dataset, prepared_folder
from mmfast.data.prepared import read_prepared, verify_prepared
from mmfast.data.raw import MatrixFile
from mmfast.data.replace_features import replace_features
from mmfast.errors import MmfastError
from tests.data.sources import numbered, plain_rows, write_plain

SETTINGS = [
    {"split": "lattice"},
    {"split_seed": 7},
    {"k_core": 2},
    {"cold_users": "keep"},
    {"features": ["text"]},
    {"features": {"text": "text_feat.npy"}},
]


class Tuned(MatrixFile):
    """Rows that were learned from train rows."""

    def sidecar(self):
        """Return what the sidecar tells."""
        return {"from_train_rows": True}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the cache of every test to itself."""
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def raw(tmp_path):
    """A plain folder of 10 items, the last of them with a single row."""
    features = {"image_feat": numbered(10, 3), "text_feat": numbered(10, 2)}
    return write_plain(tmp_path / "shop", rows=[*plain_rows(), (0, 9)], features=features)


def replace(folder, array, modality="text", kind=MatrixFile, **changes):
    """Replace features of the preparation under some settings; return its folder."""
    path = folder.parent / "new.npy"
    np.save(path, array)
    made, _ = prepared_folder(str(folder), **changes)
    replace_features(made, {modality: kind(path, len(array), encoder="light")})
    return made


@pytest.mark.parametrize("prepared_before", [False, True])
@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_every_preparation_of_the_source_has_them(raw, changes, prepared_before):
    if prepared_before:
        load_dataset(str(raw), **changes)
    rows = numbered(10, 5) * 2
    rows[3] = 0
    replace(raw, rows)
    told = []
    data = load_dataset(str(raw), stage=told.append, **changes)
    ids = np.array([int(data.item_id(item)) for item in range(data.num_items)])
    np.testing.assert_array_equal(data.features["text"], rows[ids])
    assert data.missing["text"].tolist() == np.flatnonzero(ids == 3).tolist()
    assert told[-1] == "taking features that were replaced: text (light)"
    if "features" not in changes:
        np.testing.assert_array_equal(data.features["image"], numbered(10, 3)[ids])
    made, _ = prepared_folder(str(raw), **changes)
    verify_prepared(made)
    before = (made / "manifest.json").stat().st_mtime_ns
    assert load_dataset(str(raw), **changes).fingerprint == data.fingerprint
    assert (made / "manifest.json").stat().st_mtime_ns == before  # nothing is taken twice


def test_the_newest_count_wherever_they_were_replaced(raw):
    replace(raw, numbered(10, 5))
    assert load_dataset(str(raw), split="lattice").features["text"].shape == (10, 5)
    replace(raw, numbered(10, 6))
    assert load_dataset(str(raw), split="lattice").features["text"].shape == (10, 6)
    replace(raw, numbered(10, 7), split="lattice")
    assert load_dataset(str(raw)).features["text"].shape == (10, 7)
    replace(raw, numbered(10, 8), modality="video")
    assert load_dataset(str(raw), split_seed=7).modalities == ("image", "text", "video")
    assert load_dataset(str(raw), features=["text"]).modalities == ("text",)


def test_equal_items_take_the_same_files(raw):
    made = replace(raw, numbered(10, 5))
    other, _ = prepared_folder(str(raw), split="lattice")
    name = read_prepared(made).manifest["features"]["text"]["file"]
    for file in (name, name.replace(".npy", ".json")):
        assert (made / file).read_bytes() == (other / file).read_bytes()


def test_another_source_keeps_its_own(raw, tmp_path):
    replace(raw, numbered(10, 5))
    np.save(raw / "text_feat.npy", numbered(10, 4))  # newer than what was computed from the texts
    assert load_dataset(str(raw)).features["text"].shape == (10, 4)
    (raw / "interactions.csv").write_text((raw / "interactions.csv").read_text() + "1,9\n")
    np.save(raw / "text_feat.npy", numbered(10, 2))
    assert load_dataset(str(raw)).features["text"].shape == (10, 2)


def test_items_that_the_others_lack_are_refused(raw, cache):
    made = replace(raw, numbered(9, 5), k_core=2)
    with pytest.raises(
        MmfastError, match=r"which lacks 1 of the 10 items under these settings .first: .9..; run"
    ) as told:
        load_dataset(str(raw))
    full = next(path for path in cache.iterdir() if path != made)
    assert f"the features 'text' of 'shop' were replaced (light) in '{made}'" in str(told.value)
    assert f"run `mmfast features '{full}'` with the same options" in str(told.value)
    replace_features(full, {"text": MatrixFile(raw.parent / "new.npy", 10, np.arange(10) % 9)})
    assert load_dataset(str(raw)).features["text"].shape == (10, 5)
    assert load_dataset(str(raw), k_core=2).features["text"].shape == (9, 5)


def test_features_that_know_train_rows_stay_with_their_split(raw):
    made = replace(raw, numbered(10, 5), kind=Tuned)
    assert load_dataset(str(raw), features=["text"]).features["text"].shape == (10, 5)
    with pytest.raises(MmfastError, match="know the train rows of another split or core; tune some for these settings"):
        load_dataset(str(raw), split="lattice")
    for number, path in enumerate(list(made.parent.iterdir())):
        path.rename(path.with_name(f"away-{number}"))
    assert load_dataset(str(raw), split="lattice").features["text"].shape == (10, 2)


def test_a_damaged_preparation_is_passed_over(raw):
    made = replace(raw, numbered(10, 5))
    (made / "items.parquet").unlink()
    assert load_dataset(str(raw), split_seed=7).features["text"].shape == (10, 2)
