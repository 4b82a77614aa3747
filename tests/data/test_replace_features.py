"""New features in a prepared folder: the old ones are gone, others stay, and whatever stops it, the folder is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmfast.data import replace_features as module
from mmfast.data.load import load_dataset, prepared_folder
from mmfast.data.prepared import read_prepared, verify_prepared
from mmfast.data.raw import MatrixFile
from mmfast.data.replace_features import replace_features
from mmfast.data.storage import locked
from mmfast.errors import MmfastError
from mmfast.neighbours import item_neighbours
from mmfast.prepare import prepare
from tests.data.sources import numbered, write_plain
from tests.full_disk import files

ROOT = Path(__file__).parents[2]


def matrix(tmp_path, name, array, **about):
    np.save(tmp_path / name, array)
    return MatrixFile(tmp_path / name, len(array), **about)


@pytest.fixture
def folder(tmp_path):
    source = write_plain(tmp_path / "raw", features={"image_feat": numbered(9, 3), "text_feat": numbered(9, 2)})
    return prepare(source, tmp_path / "made")


def test_only_the_named_feature_changes(folder, tmp_path):
    before = read_prepared(folder)
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    rows[4] = 0
    manifest = replace_features(folder, {"image": matrix(tmp_path, "new.npy", rows, encoder="clip@12")})
    after = read_prepared(folder)
    np.testing.assert_array_equal(after.features["image"], rows)
    np.testing.assert_array_equal(after.features["text"], before.features["text"])
    assert after.missing["image"].tolist() == [4] and manifest == dict(after.manifest)
    assert after.fingerprint != before.fingerprint
    name = manifest["features"]["image"]["file"]
    kept = ["feature_text.npy", "interactions.parquet", "items.parquet", "manifest.json", "users.parquet"]
    assert files(folder) == sorted([name, name.replace(".npy", ".json"), *kept])
    sidecar = json.loads((folder / name.replace(".npy", ".json")).read_text())
    assert sidecar["encoder"] == "clip@12" and sidecar["missing"] == ["4"] and sidecar["shape"] == [9, 5]
    assert sidecar["items"] == module.item_list_hash(after.item_ids)
    assert set(verify_prepared(folder)) == set(files(folder)) - {"manifest.json"}
    (folder / name).write_bytes(b"x" * (folder / name).stat().st_size)
    with pytest.raises(MmfastError, match=f"the content of {name} is not what was written"):
        verify_prepared(folder)


def test_old_neighbours_are_not_used(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mmfast.neighbours.CACHE_ABOVE", 0)
    rng = np.random.default_rng(1)
    lists = []
    for seed in range(2):
        rows = rng.normal(size=(9, 4)).astype(np.float32)
        replace_features(folder, {"image": matrix(tmp_path, f"{seed}.npy", rows)})
        data = read_prepared(folder)
        lists.append(item_neighbours(data, "image", 4))
        np.testing.assert_array_equal(lists[-1], item_neighbours(data.with_features({"image": rows}), "image", 4))
    assert not np.array_equal(*lists) and len(files(tmp_path / "cache" / "neighbours")) == 2


def test_the_same_again_and_back(folder, tmp_path):
    first = matrix(tmp_path, "a.npy", numbered(9, 4))
    replace_features(folder, {"image": first})
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    replace_features(folder, {"image": matrix(tmp_path, "b.npy", numbered(9, 6))})
    replace_features(folder, {"image": MatrixFile(tmp_path / "a.npy", 9)})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content


def test_the_same_rows_told_otherwise_are_other_files(folder, tmp_path, monkeypatch):
    first = replace_features(folder, {"image": matrix(tmp_path, "a.npy", numbered(9, 4), encoder="one")})
    monkeypatch.setattr(module, "replace_file", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replace_features(folder, {"image": matrix(tmp_path, "a.npy", numbered(9, 4), encoder="another")})
    monkeypatch.undo()
    verify_prepared(folder)
    second = replace_features(folder, {"image": matrix(tmp_path, "a.npy", numbered(9, 4), encoder="another")})
    assert first["features"]["image"]["file"] != second["features"]["image"]["file"]
    assert len(files(folder)) == 7
    verify_prepared(folder)


class Broken:
    """A source that fails after it has begun to write."""

    encoder = origin = "broken"

    def __init__(self, error):
        self.error = error

    def write(self, path, modality, codes, ids):
        path.write_bytes(b"half")
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MmfastError("no")])
def test_a_source_that_fails_changes_nothing(folder, error):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    expected = MmfastError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        replace_features(folder, {"text": Broken(error)})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(MmfastError, match="modality '1x'"):
        replace_features(folder, {"1x": Broken(error)})


def test_what_a_killed_process_left_is_removed(folder, tmp_path):
    (folder / f"{module.PART}dead").mkdir()
    (folder / f"{module.PART}dead" / "feature_image.npy").write_bytes(b"half")
    (folder / ".manifest.json.1.ab.part").write_bytes(b"half")
    (folder / f"feature_image-{'0' * 16}.npy").write_bytes(b"named by no manifest")
    alive = folder / f"{module.PART}alive"
    alive.mkdir()
    with locked(alive):
        replace_features(folder, {"image": matrix(tmp_path, "a.npy", numbered(9, 4))})
    assert alive.is_dir()
    replace_features(folder, {"image": matrix(tmp_path, "a.npy", numbered(9, 4))})
    assert [name for name in files(folder) if name.startswith(".")] == [] and len(files(folder)) == 7


WRITER = """
import sys
from pathlib import Path
from mmfast.data.raw import MatrixFile
from mmfast.data.replace_features import replace_features
for _ in range(5):
    replace_features(sys.argv[1], {sys.argv[2]: MatrixFile(Path(sys.argv[3]), 9)})
"""


def test_two_writers_keep_both_features(folder, tmp_path):
    np.save(tmp_path / "new.npy", numbered(9, 7))
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, folder, modality, tmp_path / "new.npy"], cwd=ROOT)
        for modality in ("image", "text")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    data = read_prepared(folder)
    assert {m: data.features[m].shape[1] for m in data.modalities} == {"image": 7, "text": 7}
    verify_prepared(folder)


def test_the_folder_that_a_name_stands_for(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))
    assert prepared_folder(str(folder)) == (folder, folder)
    made, source = prepared_folder(str(tmp_path / "raw"))
    assert source == tmp_path / "raw" and made.is_relative_to(tmp_path / "cache")
    replace_features(made, {"image": matrix(tmp_path, "a.npy", numbered(9, 4))})
    assert load_dataset(str(tmp_path / "raw")).features["image"].shape == (9, 4)
