"""Prepared folders: written whole or not at all, the same bytes each time, and damage told in one sentence."""

import errno
import json
import mmap
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfast.data import prepared, storage
from mmfast.data.hashing import hash_file
from mmfast.data.load import load_dataset
from mmfast.data.manifest import read_manifest
from mmfast.data.prepared import read_prepared, verify_prepared, write_prepared
from mmfast.errors import MmfastError
from mmfast.prepare import prepare
from tests.data.sources import numbered, pairs, write_plain, write_text
from tests.full_disk import full_after

ROWS = pl.DataFrame(
    {"user": [1, 0, 0, 1, 0, 1], "item": [0, 2, 1, 1, 0, 2], "split": [0, 0, 0, 1, 1, 2], "time": [5, 3, 4, 9, 8, 7]}
)
USERS = pl.DataFrame({"id": ["u0", "u1"]})
ITEMS = pl.DataFrame({"id": ["a", "b", "c"], "title": ["Aa", None, "Cc"]})


def write(folder, **changes):
    features = {"text": np.array([[1, 2], [0, 0], [3, 4]], np.float16), "image": np.ones((3, 5), np.float32)}
    fields = {"name": "tiny", "rows": ROWS, "users": USERS, "items": ITEMS, "features": features}
    return write_prepared(folder, **{**fields, **changes})


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_read(tmp_path):
    data = read_prepared(write(tmp_path / "out"))
    assert (data.name, data.num_users, data.num_items) == ("tiny", 2, 3)
    assert pairs(data.train) == {(1, 0), (0, 2), (0, 1)} and data.train.users.tolist() == [0, 0, 1]
    assert pairs(data.valid) == {(1, 1), (0, 0)} and pairs(data.test) == {(1, 2)}
    assert data.features["text"].tolist() == [[1, 2], [0, 0], [3, 4]] and data.features["text"].dtype == np.float16
    assert data.missing["text"].tolist() == [1] and data.missing["image"].tolist() == []
    assert data.user_id(1) == "u1" and data.item_index("c") == 2 and data.item_title(1) == ""
    assert data.manifest["rows"] == {"train": 3, "valid": 2, "test": 1}


def test_features_are_mapped_not_loaded(tmp_path):
    array = read_prepared(write(tmp_path / "out")).features["image"]
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap) and not array.flags.writeable


def test_hashes_of_the_manifest_are_those_of_the_content(tmp_path):
    data = read_prepared(write(tmp_path / "out"))
    assert data.fingerprint == data.with_features(dict(data.features)).fingerprint


def test_reading_hashes_no_feature(tmp_path, monkeypatch):
    folder = write(tmp_path / "out")
    monkeypatch.setattr("mmfast.data.dataset.hash_array", lambda array: pytest.fail() if array.ndim == 2 else "0")
    monkeypatch.setattr("mmfast.data.dataset.zero_rows", lambda *a: pytest.fail("values were checked again"))
    assert len(read_prepared(folder).fingerprint) == 64


def test_twice_gives_the_same_bytes(tmp_path):
    source = write_plain(tmp_path / "set", features={"text_feat": numbered(9, 4)})
    first, second = prepare(source, tmp_path / "one"), prepare(source, tmp_path / "two")
    assert content(first) == content(second)
    assert str(tmp_path) not in (first / "manifest.json").read_text()


def test_existing_folder_is_refused_or_replaced(tmp_path):
    folder = write(tmp_path / "out")
    (folder / "note.txt").write_text("mine")
    with pytest.raises(MmfastError, match="exists already; choose another folder, or pass --force"):
        write(folder)
    assert (folder / "note.txt").exists()
    write(folder, name="other", replace=True)
    assert read_prepared(folder).name == "other" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("replace", [False, True])
def test_failure_in_the_middle_leaves_nothing_new(tmp_path, monkeypatch, replace):
    before = content(write(tmp_path / "out")) if replace else None
    monkeypatch.setattr(prepared, "write_feature", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(MmfastError, match=r"cannot write '.*out': disk full; free space or choose another folder"):
        write(tmp_path / "out", replace=replace)
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if replace else [])
    assert before is None or content(tmp_path / "out") == before


def test_failure_of_the_last_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    before = content(write(tmp_path / "out"))
    rename = Path.rename

    def fail_for_new(self, target):
        if self.suffix == ".part":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(MmfastError, match=r"cannot write .*: no; free space"):
        write(tmp_path / "out", name="new", replace=True)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and content(tmp_path / "out") == before


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("mmfast.data.prepared._write_parquet", FULL),
        ("mmfast.data.prepared._write_parquet", pl.exceptions.ComputeError("No space left on device")),
        ("mmfast.data.prepared.write_manifest", FULL),
        ("mmfast.data.storage._sync", FULL),
        ("mmfast.data.storage.tempfile.mkdtemp", FULL),
        ("mmfast.data.storage.os.posix_fallocate", FULL),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, name, error):
    source = write_plain(tmp_path / "shop", features={"text_feat": numbered(9, 3)})

    def fail(*args, **named):
        raise error

    monkeypatch.setattr(name, fail)
    with pytest.raises(
        MmfastError, match=r"prepare: cannot write .*out': No space left on device; free space"
    ) as caught:
        prepare(source, tmp_path / "out")
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["shop"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "get the right to write there, or choose another folder"),
        (errno.EROFS, "get the right to write there, or choose another folder"),
        (errno.ENOENT, "no folder can be made there, choose another"),
        (errno.ENOSPC, "free space or choose another folder"),
    ],
)
def test_the_advice_is_of_the_reason(tmp_path, monkeypatch, number, advice):
    source = write_plain(tmp_path / "shop")

    def fail(*args, **named):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mmfast.data.storage.tempfile.mkdtemp", fail)
    with pytest.raises(MmfastError, match=rf"cannot write '.*out': {os.strerror(number)}; {advice}$"):
        prepare(source, tmp_path / "out")


def test_a_place_where_no_folder_can_be_made(tmp_path):
    source = write_plain(tmp_path / "shop")
    write_text(tmp_path / "file", "mine")
    with pytest.raises(MmfastError, match=r"cannot write .*; no folder can be made there, choose another"):
        prepare(source, tmp_path / "file" / "out")


@pytest.mark.parametrize("room", [0, 100, 200, 900])
def test_no_byte_of_an_array_is_lost_on_a_full_disk(tmp_path, room):
    array = np.arange(200, dtype=np.float32).reshape(20, 10)
    storage.save_npy(tmp_path / "whole.part", array)
    assert np.array_equal(np.load(tmp_path / "whole.part"), array)
    with pytest.raises(OSError, match="File too large"), full_after(room):
        storage.save_npy(tmp_path / "half.npy", array)


@pytest.mark.parametrize("manifest", [None, "{oops", "[1]", '{"format": "other"}'])
def test_only_a_prepared_folder_is_replaced(tmp_path, manifest):
    target = tmp_path / "out"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    if manifest is not None:
        (target / "manifest.json").write_text(manifest)
    with pytest.raises(MmfastError, match=r"exists and is not a prepared folder .*; choose another folder, or remove"):
        write(target, replace=True)
    assert (target / "thesis.txt").read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_ours_and_appears_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(MmfastError, match="not a prepared folder"), storage.new_folder(target, replace=True):
        target.mkdir()
        (target / "who").write_text("other")
    assert (target / "who").read_text() == "other" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_prepared_folder_stays_a_link(tmp_path):
    folder = write(tmp_path / "out")
    (tmp_path / "link").symlink_to(folder)
    write(tmp_path / "link", name="other", replace=True)
    assert (tmp_path / "link").is_symlink() and read_prepared(folder).name == "other"


def test_pairs_in_train_and_in_another_part_are_kept_and_counted(tmp_path):
    more = pl.DataFrame({"user": [0, 1, 1], "item": [2, 0, 1], "split": [1, 2, 2], "time": [1, 1, 1]})
    data = read_prepared(write(tmp_path / "out", rows=pl.concat([ROWS, more])))
    assert data.manifest["train_pairs_held_out"] == {"valid": 1, "test": 1} and len(data.valid) == 3
    assert read_prepared(write(tmp_path / "no")).manifest["train_pairs_held_out"] == {"valid": 0, "test": 0}


def test_the_loser_of_a_race_uses_the_winners_folder(tmp_path):
    target = tmp_path / "out"
    with storage.new_folder(target, keep_existing=True) as mine:
        (mine / "who").write_text("loser")
        with storage.new_folder(target, keep_existing=True) as other:
            (other / "who").write_text("winner")
    assert (target / "who").read_text() == "winner" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(MmfastError, match="appeared while it was being written"), storage.new_folder(target):
        target.mkdir()
        (target / "who").write_text("other")
    assert (target / "who").read_text() == "other"


def cut(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-7])


def cut_and_record(folder, name):
    """Cut a file and let the manifest agree, so that the reader of the file itself must notice."""
    cut(folder, name)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name]["bytes"] -= 7
    edit_manifest(folder, files=files)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{oops"), "manifest.json cannot be read"),
        (lambda f: (f / "manifest.json").write_text("[1]"), "does not say format"),
        (lambda f: edit_manifest(f, version=99), "format version 99 but this mmfast .* reads version 1"),
        (lambda f: edit_manifest(f, rows={"train": 4, "valid": 2, "test": 1}), "interactions.parquet has .*'train': 3"),
        (lambda f: (f / "items.parquet").unlink(), "'items.parquet' is missing"),
        (lambda f: cut(f, "feature_text.npy"), "'feature_text.npy' has 133 bytes, not 140"),
        (lambda f: cut(f, "interactions.parquet"), "'interactions.parquet' has [0-9,]+ bytes, not"),
        (lambda f: cut_and_record(f, "feature_text.npy"), "'feature_text.npy' cannot be read"),
        (lambda f: cut_and_record(f, "interactions.parquet"), "'interactions.parquet' cannot be read"),
        (lambda f: edit_manifest(f, num_items=4), "'image' have 3 rows but there are 4 items"),
    ],
)
def test_damage_is_told_in_one_sentence(tmp_path, damage, message):
    folder = write(tmp_path / "out")
    damage(folder)
    with pytest.raises(MmfastError, match=message) as caught:
        read_prepared(folder)
    assert "\n" not in str(caught.value) and "again" in str(caught.value)


def test_manifest_without_a_field(tmp_path):
    folder = write(tmp_path / "out")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["rows"], manifest["split"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(MmfastError, match=r"manifest.json lacks rows, split"):
        read_manifest(folder)


def wrong_feature(folder, **changes):
    features = json.loads((folder / "manifest.json").read_text())["features"]
    features["text"].update(changes)
    edit_manifest(folder, features=features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_users": "60"}, "num_users is '60'; input should be a valid integer"),
        ({"num_items": True}, "num_items is True; input should be a valid integer"),
        ({"num_items": -3}, "num_items is -3; input should be greater than or equal to 0"),
        ({"name": None}, "name is None; input should be a valid string"),
        ({"rows": {"train": 3}}, r"rows.valid is missing"),
        ({"files": {}}, "the files of manifest.json lack interactions.parquet, users.parquet, items.parquet, feature_"),
        ({"files": {"x": 3}}, r"files.x is 3; input should be"),
        ({"files": {"x": {"sha256": "0"}}}, r"files.x.bytes is missing"),
        ({"features": []}, r"features is \[\]; input should be"),
        ({"features": {"text": {}}}, r"features.text.file is missing"),
        ({"split": "mmrec"}, "split is 'mmrec'; input should be"),
        ({"split": {}}, r"split.rule is missing"),
        ({"dropped": None}, "dropped is None; input should be"),
        ({"dropped": {"rows": "x" * 99}}, r"dropped.rows is 'x{39}\.\.\.; input should be"),
        ({"k_core": "five"}, "k_core is 'five'; input should be a valid integer"),
        ({"cold_users": "maybe"}, "cold_users is 'maybe'; input should be 'drop' or 'keep'"),
        ({"source": None}, "source is None; input should be"),
        ({"train_pairs_held_out": [1]}, r"train_pairs_held_out is \[1\]; input should be"),
    ],
)
def test_a_malformed_manifest_is_told_in_one_sentence(tmp_path, changes, message):
    folder = write(tmp_path / "out")
    edit_manifest(folder, **changes)
    for read in (read_prepared, verify_prepared, load_dataset):
        with pytest.raises(MmfastError, match=rf"is damaged: .*{message}.*; prepare it again") as caught:
            read(str(folder))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"missing": 5}, {"missing": ["a"]}, {"shape": [3]}, {"file": None}])
def test_a_malformed_feature_of_a_manifest_is_told(tmp_path, changes):
    folder = write(tmp_path / "out")
    wrong_feature(folder, **changes)
    with pytest.raises(MmfastError, match=rf"in manifest.json features.text.{next(iter(changes))}[.0-9]* is "):
        read_prepared(folder)


def test_verify_finds_a_changed_byte(tmp_path):
    folder = write(tmp_path / "out")
    assert "feature_text.npy" in verify_prepared(folder)
    path = folder / "feature_image.npy"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # verifying does not believe the clock
    with pytest.raises(MmfastError, match=r"the content of feature_image.npy is not what was written"):
        verify_prepared(folder)


def later(path, manifest):
    while path.stat().st_ctime_ns <= manifest.stat().st_ctime_ns:  # the clock of a file system goes in steps
        os.utime(path, ns=(0, 0))  # an old time of writing does not hide the change


@pytest.mark.parametrize("name", ["feature_image.npy", "interactions.parquet"])
def test_a_file_changed_after_the_manifest_is_refused(tmp_path, name):
    folder = write(tmp_path / "out")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    later(folder / name, folder / "manifest.json")
    with pytest.raises(MmfastError, match=f"the content of {name} is not what was written; prepare it again"):
        read_prepared(folder)


def test_a_copied_folder_is_hashed_once(tmp_path, monkeypatch):
    folder = write(tmp_path / "out")
    hashed = []
    monkeypatch.setattr(prepared, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    for name in read_manifest(folder)["files"]:
        later(folder / name, folder / "manifest.json")
    assert read_prepared(folder).num_items == 3
    assert sorted(hashed) == sorted(read_manifest(folder)["files"])
    hashed.clear()
    assert read_prepared(folder).num_items == 3 and not hashed


def test_bad_content_is_refused_before_anything_appears(tmp_path):
    with pytest.raises(MmfastError, match="item id 'a' stands for 2 items"):
        write(tmp_path / "out", items=pl.DataFrame({"id": ["a", "b", "a"]}))
    with pytest.raises(MmfastError, match="'text' have 2 rows but there are 3 items"):
        write(tmp_path / "out", features={"text": np.ones((2, 2), np.float32)})
    with pytest.raises(MmfastError, match="NaN or infinite"):
        write(tmp_path / "out", features={"text": np.full((3, 2), np.nan, np.float32)})
    with pytest.raises(MmfastError, match=r"pair \(user 0, item 0\) is repeated"):
        write(tmp_path / "out", rows=pl.concat([ROWS, ROWS[4:5]]))
    with pytest.raises(MmfastError, match="user 1 of the train part is out of range; there are 1 users"):
        write(tmp_path / "out", users=USERS[:1])
    with pytest.raises(MmfastError, match="the test part is empty"):
        write(tmp_path / "out", rows=ROWS[:5])
    assert list(tmp_path.iterdir()) == []
