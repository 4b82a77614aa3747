"""Feature files beside the data and their sidecars: what is taken, what is told, and what is refused."""

import json
import pickle

import numpy as np
import pytest

from mmfast.data.load import load_dataset
from mmfast.errors import MmfastError
from mmfast.prepare import main, prepare
from tests.data.sources import numbered, write_plain


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


def test_sidecar_names_encoder_and_missing_items(tmp_path):
    folder = write_plain(tmp_path / "shop", features={"text_feat": numbered(9, 2)})
    (folder / "text_feat.json").write_text(json.dumps({"encoder": "minilm", "missing": ["4", "2"]}))
    data = load_dataset(str(folder))
    assert data.manifest["features"]["text"]["encoder"] == "minilm" and data.missing["text"].tolist() == [2, 4]
    (folder / "text_feat.json").write_text(json.dumps({"missing": ["nobody"]}))
    with pytest.raises(MmfastError, match="missing item 'nobody', which is unknown"):
        load_dataset(str(folder))
    for wrong in (5, None, "all", [1.5], [True], {"4": 1}):
        (folder / "text_feat.json").write_text(json.dumps({"missing": wrong}))
        with pytest.raises(MmfastError, match=r"beside 'text_feat.npy' records as missing .*; want a list of items"):
            load_dataset(str(folder))
    for wrong in ([400], [3, 9], [-1]):
        (folder / "text_feat.json").write_text(json.dumps({"missing": wrong}))
        with pytest.raises(MmfastError, match=rf"missing item {wrong[-1]} but the items are 0 to 8 \(1 such"):
            load_dataset(str(folder))
    (folder / "text_feat.json").write_text("{")
    with pytest.raises(MmfastError, match=r"text_feat.json' is not JSON"):
        load_dataset(str(folder))


@pytest.mark.parametrize("stem", ["text_feat", "text", "audio"])
@pytest.mark.parametrize("size", [0, 40, 1000])
def test_a_feature_file_cut_short(tmp_path, stem, size):
    folder = write_plain(tmp_path / "shop", features={stem: numbered(9, 200)})
    path = folder / f"{stem}.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MmfastError, match=rf"{stem}.npy' cannot be read as .npy"):
        load_dataset(str(folder))


UNUSABLE = {
    "one": np.arange(9.0),
    "three": np.ones((9, 2, 2), np.float32),
    "flags": np.ones((9, 2), bool),
    "complex": np.ones((9, 2), np.complex64),
    "words": np.array([["a"]] * 9),
    "objects": np.array([[{}]] * 9, dtype=object),
}


def test_a_file_that_cannot_be_features_is_told(tmp_path, capsys):
    folder = write_plain(tmp_path / "shop", features={**UNUSABLE, "text_feat": numbered(9, 2)})
    heard = []
    assert load_dataset(str(folder), stage=heard.append).modalities == ("text",)
    told = [line for line in heard if line.startswith("not taken as features: ")]
    wanted = "want a matrix of numbers, one row per item"
    assert told == [
        f"not taken as features: '{name}.npy' holds {held}; {wanted}"
        for name, held in [
            ("complex", "complex64 of shape (9, 2)"),
            ("flags", "bool of shape (9, 2)"),
            ("objects", "Python objects"),
            ("one", "float64 of shape (9,)"),
            ("three", "float32 of shape (9, 2, 2)"),
            ("words", "<U1 of shape (9, 1)"),
        ]
    ]
    assert main([str(folder), str(tmp_path / "out")]) == 0
    assert "not features, one.npy" in capsys.readouterr().out
    assert "passed_over" not in load_dataset(str(folder), features=["text"]).manifest["source"]


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_that_cannot_be_features_is_refused_when_it_is_named(tmp_path, name):
    folder = write_plain(tmp_path / "shop", features=UNUSABLE)
    with pytest.raises(MmfastError, match=rf"{name}.npy' holds .*; want a matrix of numbers"):
        load_dataset(str(folder), features=[name])
    with pytest.raises(MmfastError, match=rf"{name}.npy' .*want (numbers|one row of numbers)"):
        load_dataset(str(folder), features={"smell": f"{name}.npy"})


def write_records(path):
    path.write_bytes(b"B000000001" + np.ones(4096, "<f4").tobytes())


def write_pickle(path):
    path.write_bytes(pickle.dumps([1, 2]))


def write_archive(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones((9, 2)))


@pytest.mark.parametrize("write", [write_records, write_pickle, write_archive])
def test_a_file_that_is_no_npy_file_is_refused_in_our_own_words(tmp_path, write):
    folder = write_plain(tmp_path / "shop", features={"image_feat": numbered(9, 2)})
    write(folder / "image_feat.b")
    write(tmp_path / "text.npy")
    for place in (folder, prepare(folder, tmp_path / "ready")):
        for name in (folder / "image_feat.b", tmp_path / "text.npy"):
            with pytest.raises(MmfastError, match=r"cannot be read as .npy: it does not begin as .* with numpy.save"):
                load_dataset(str(place), features={"image": str(name)})
