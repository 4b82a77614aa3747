"""Neighbour lists: items without features, no copy of the features, and a cache that is checked."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mmfast import neighbours
from mmfast.errors import MmfastError
from mmfast.neighbours import item_neighbours
from tests.full_disk import files, full_after
from tests.toys import toy_dataset


def dataset_of(features):
    return toy_dataset(num_items=len(features)).with_features({"text": features})


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A data set whose lists are cached, and the cache file."""
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(neighbours, "CACHE_ABOVE", 0)
    dataset = dataset_of(np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32))
    ids = item_neighbours(dataset, "text", 4)
    (path,) = (tmp_path / "neighbours").iterdir()
    return dataset, ids, path


def test_items_without_features_have_no_neighbours_and_are_nobodys():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(24, 6)).astype(np.float32)
    rows = np.array([0, 3, 4, 10, 17, 23])  # few enough that negative similarities are in the lists
    features[np.setdiff1d(np.arange(24), rows)] = 0
    ids = item_neighbours(dataset_of(features), "text", 8)
    assert ids.dtype == np.int32 and np.array_equal(ids[:, 0], np.arange(24))
    zero = np.setdiff1d(np.arange(24), rows)
    assert (ids[zero, 1:] == -1).all()
    assert (ids[rows, 6:] == -1).all()
    unit = features[rows].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit.T) - 9 * np.eye(6), axis=1)
    assert np.array_equal(ids[rows, :6], rows[order])


def test_one_zero_row_does_not_copy_the_features():
    features = np.ones((3000, 512), np.float32)
    features[7] = 0
    dataset = dataset_of(features)
    tracemalloc.start()
    item_neighbours(dataset, "text", 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < features.nbytes / 4


def test_features_of_zeros_are_refused():
    with pytest.raises(MmfastError, match="features 'text': all 24 rows are zero, so no item is like another; give"):
        item_neighbours(dataset_of(np.zeros((24, 3), np.float32)), "text", 2)


def test_the_cache_is_used(cached, monkeypatch):
    dataset, ids, _ = cached
    monkeypatch.setattr(neighbours, "knn_graph", lambda *a: pytest.fail("computed again"))
    assert np.array_equal(item_neighbours(dataset, "text", 4), ids)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda ids: ids[:-1], r"it holds int32 \[23, 4\], not int32 \[24, 4\]"),
        (lambda ids: ids[:, :3], r"it holds int32 \[24, 3\], not int32 \[24, 4\]"),
        (lambda ids: ids.astype(np.int64), r"it holds int64 \[24, 4\], not int32"),
        (lambda ids: np.where(ids == 5, 24, ids).astype(np.int32), "items that do not exist"),
        (lambda ids: np.where(ids == 5, -2, ids).astype(np.int32), "items that do not exist"),
        (lambda ids: ids[::-1], "does not list every item first"),
        (lambda ids: np.array([{}], dtype=object), "allow_pickle=False"),
    ],
)
def test_a_damaged_cache_is_told_and_computed_anew(cached, content, problem):
    dataset, ids, path = cached
    np.save(path, content(ids))
    with pytest.warns(
        UserWarning, match=rf"neighbour lists in '.*{path.name}' are damaged and computed anew: .*{problem}"
    ):
        assert np.array_equal(item_neighbours(dataset, "text", 4), ids)
    assert np.array_equal(np.load(path), ids)


@pytest.mark.parametrize("keep", [0, 5, 100, 200])
def test_a_truncated_cache_is_told_and_computed_anew(cached, keep):
    dataset, ids, path = cached
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.warns(UserWarning, match="are damaged and computed anew"):
        assert np.array_equal(item_neighbours(dataset, "text", 4), ids)


def test_a_cache_that_cannot_be_written_is_told(cached):
    dataset, ids, path = cached
    path.unlink()
    with full_after(200), pytest.warns(UserWarning, match=r"cannot write '.*\.npy': .*File too large; .*MMFAST_CACHE"):
        assert np.array_equal(item_neighbours(dataset, "text", 4), ids)
    assert files(path.parent) == []
