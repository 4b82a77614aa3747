"""The store: what is put is got again, damage and kills are seen, several processes may write at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from mmfast.content.store import ABANDONED_SECONDS, Store, content_key
from mmfast.errors import MmfastError
from tests.full_disk import full_after

KEY = content_key(kind="encode", model="m:1", settings={"dim": 3}, inputs=["a"])
ARRAYS = {
    "rows": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
    "offsets": np.array([0, 2, 2, 5], np.int64),
    "known": np.array([True, False, True]),
    "half": np.ones((2, 0), np.float16),
    "runs": np.arange(5, dtype=np.uint16),
}


def same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


def test_arrays_come_back(tmp_path):
    store = Store(tmp_path / "s")
    assert store.get("encode", KEY) is None and store.peek("encode", KEY) is None and store.kinds() == []
    store.put("encode", KEY, ARRAYS, note={"model": "m", "settings": {"dim": 3}})
    same(ARRAYS, Store(tmp_path / "s").get("encode", KEY))
    same(ARRAYS, store.peek("encode", KEY))
    assert store.peek("segment", KEY) is None
    (entry,) = store.entries("encode")
    assert (entry.key, entry.note) == (KEY, {"model": "m", "settings": {"dim": 3}})
    assert entry.num_bytes == sum(path.stat().st_size for path in (tmp_path / "s").rglob("*.entry"))
    assert store.kinds() == ["encode"]


def test_an_entry_is_the_same_bytes_each_time_and_the_last_one_counts(tmp_path):
    store = Store(tmp_path)
    store.put("encode", KEY, ARRAYS, note={"b": 1, "a": 2})
    (path,) = tmp_path.rglob("*.entry")
    first = path.read_bytes()
    store.put("encode", KEY, dict(reversed(ARRAYS.items())), note={"a": 2, "b": 1})
    assert path.read_bytes() == first
    store.put("encode", KEY, {"rows": np.zeros(1)})
    same(store.get("encode", KEY), {"rows": np.zeros(1)})
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_default_folder_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path))
    assert Store().folder == tmp_path / "content"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "head"])
def test_a_damaged_entry_counts_as_absent(tmp_path, damage):
    store = Store(tmp_path)
    store.put("encode", KEY, ARRAYS)
    (path,) = tmp_path.rglob("*.entry")
    content = bytearray(path.read_bytes())
    content[3 if damage == "head" else -1] ^= 1
    path.write_bytes({"cut": content[:-5], "empty": b""}.get(damage, bytes(content)))
    with pytest.warns(UserWarning, match="is damaged and computed anew: its bytes are not those that were written"):
        assert store.get("encode", KEY) is None
    assert store.peek("encode", KEY) is None  # without a warning
    store.put("encode", KEY, ARRAYS)
    same(ARRAYS, store.get("encode", KEY))


def test_failures_are_told_until_something_is_put(tmp_path):
    store = Store(tmp_path)
    assert store.failure("segment", KEY) is None
    store.fail("segment", KEY, "the photo is no picture: été")
    assert store.failure("segment", KEY) == "the photo is no picture: été"
    assert store.failures("segment") == {KEY: "the photo is no picture: été"} and store.failures("encode") == {}
    assert store.get("segment", KEY) is None and list(store.entries("segment")) == []
    store.put("segment", KEY, ARRAYS)
    assert store.failure("segment", KEY) is None and store.failures("segment") == {}


def test_a_damaged_record_of_a_failure_is_none(tmp_path):
    store = Store(tmp_path)
    store.fail("segment", KEY, "no picture")
    (path,) = tmp_path.rglob("*.failed")
    path.write_bytes(b"{")
    assert store.failure("segment", KEY) is None and store.failures("segment") == {}
    assert store.recipes("segment") == []


def test_keys_tell_apart_all_that_goes_in():
    base = {"kind": "encode", "model": "m:1", "settings": {"a": 1, "b": [2]}, "inputs": ["x", "y"]}
    key = content_key(**base)
    assert key == content_key(**{**base, "settings": {"b": [2], "a": 1}})
    others = [("kind", "segment"), ("model", "m:2"), ("settings", {"a": 1}), ("inputs", ["y", "x"]), ("inputs", ["xy"])]
    assert len({key, *(content_key(**{**base, name: value}) for name, value in others)}) == 6
    with pytest.raises(MmfastError, match="kind 'encode': settings and inputs must be JSON values"):
        content_key(**{**base, "settings": {"a": object()}})


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(MmfastError, match=r"got the kind '\.\./x'; want small letters"):
        Store(tmp_path).get("../x", KEY)
    with pytest.raises(MmfastError, match="got the key 'abc'; want 64 hexadecimal digits"):
        Store(tmp_path).put("encode", "abc", ARRAYS)


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    store = Store(tmp_path)
    with full_after(1000), pytest.raises(MmfastError, match=r"store: cannot write '.*': File too large; free space"):
        store.put("encode", KEY, {"rows": np.zeros(5000)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_killed_processes_left_is_swept(tmp_path):
    store = Store(tmp_path)
    store.put("encode", KEY, ARRAYS)
    folder = next(tmp_path.rglob("*.entry")).parent
    old, new = folder / ".old.part", folder / ".new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - ABANDONED_SECONDS - 60))
    assert store.sweep() == 1 and new.exists() and not old.exists() and store.peek("encode", KEY)


def write_for_ever(folder, seed):
    store, rng = Store(folder), np.random.default_rng(seed)
    while True:
        value = int(rng.integers(4))
        key = content_key(kind="encode", model="m", settings={}, inputs=[str(value)])
        store.put("encode", key, {"rows": np.full(20_000, value)}, note={"value": value})


def test_kills_at_any_moment_leave_whole_entries(tmp_path):
    fork = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    for _ in range(5):
        writers = [fork.Process(target=write_for_ever, args=(tmp_path, seed), daemon=True) for seed in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(0.05 + 0.1 * rng.random())
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
    store = Store(tmp_path)
    entries = list(store.entries("encode"))
    assert entries
    for entry in entries:
        np.testing.assert_array_equal(store.get("encode", entry.key)["rows"], np.full(20_000, entry.note["value"]))
