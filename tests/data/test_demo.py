"""The demo catalogue: deterministic, whole, split by the rule, and truthful about its target objects."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import mmfast
from mmfast.data.demo import decode_mask, demo_folder, demo_truth, encode_mask
from mmfast.data.demo_scenes import draw_scenes
from mmfast.data.demo_taste import draw_choices
from mmfast.data.hashing import hash_file
from mmfast.data.prepared import read_prepared, verify_prepared
from mmfast.errors import MmfastError

ITEMS, USERS = 60, 80


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("MMFAST_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def folder(cache):
    return demo_folder(num_items=ITEMS, num_users=USERS)


@pytest.fixture(scope="module")
def truth(folder):
    return demo_truth(folder)


def hashes(folder):
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_full_disk_while_painting_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(MmfastError, match=r"cannot write '.*demo-\w+': No space left on device; .*MMFAST_CACHE"):
        demo_folder(num_items=24, num_users=5)
    assert list((tmp_path / "data").iterdir()) == []


def test_another_process_makes_the_same_bytes(folder, tmp_path):
    code = f"from mmfast.data.demo import demo_folder; print(demo_folder(num_items={ITEMS}, num_users={USERS}))"
    other_cache = {**os.environ, "MMFAST_CACHE": str(tmp_path)}
    root = Path(mmfast.__file__).parent.parent
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=other_cache, cwd=root, capture_output=True, text=True, check=True)
    other = tmp_path / "data" / folder.name
    assert done.stdout.strip() == str(other)
    assert hashes(other) == hashes(folder)


def test_a_second_call_finds_the_folder(folder):
    before = folder.stat().st_mtime_ns
    assert demo_folder(num_items=ITEMS, num_users=USERS) == folder
    assert folder.stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_folder_is_a_whole_prepared_folder(folder):
    verify_prepared(folder)
    dataset = read_prepared(folder)
    assert (dataset.num_users, dataset.num_items) == (USERS, ITEMS)
    assert dataset.manifest["split"]["rule"] == "mmrec"
    shapes = {modality: rows.shape for modality, rows in dataset.features.items()}
    assert shapes == {"image": (ITEMS, 256), "text": (ITEMS, 128)}
    for modality, rows in dataset.features.items():
        assert np.isfinite(rows).all()
        assert rows.any(axis=1).all()
        assert len(dataset.missing[modality]) == 0


def test_every_user_is_split_by_the_rule(folder):
    dataset = read_prepared(folder)
    sizes = np.stack([np.diff(part.by_user(USERS)[0]) for part in (dataset.train, dataset.valid, dataset.test)])
    total = sizes.sum(axis=0)
    assert total.min() >= 5
    held = np.where(total < 10, 2, total // 5)
    np.testing.assert_array_equal(sizes[1], np.where(total < 10, 1, held // 2))
    np.testing.assert_array_equal(sizes[2], held - sizes[1])
    pairs = [part.users.astype(np.int64) * ITEMS + part.items for part in (dataset.train, dataset.valid, dataset.test)]
    assert len(np.unique(np.concatenate(pairs))) == total.sum()


def test_photos_are_files_of_the_item_table(folder):
    items = pl.read_parquet(folder / "items.parquet")
    assert items["image"].n_unique() == ITEMS
    for name in items["image"]:
        with Image.open(folder / name) as photo:
            assert (photo.size, photo.mode) == ((128, 128), "RGB")


def test_nouns_stand_where_the_truth_says(folder, truth):
    items = pl.read_parquet(folder / "items.parquet")
    for row in truth.iter_rows(named=True):
        texts = {"title": items["title"][row["item"]], "text": items["text"][row["item"]]}
        named = [column for column in texts if row[f"{column}_start"] is not None]
        assert named == ["title", "text"] if row["is_target"] else named
        assert named
        for column in named:
            found = texts[column][row[f"{column}_start"] : row[f"{column}_end"]]
            assert found.lower() == row["noun"]


def test_each_item_has_one_target_and_some_auxiliaries(truth):
    per_item = truth.group_by("item").agg(pl.len().alias("objects"), pl.col("is_target").sum().alias("targets"))
    assert per_item.height == ITEMS
    assert per_item["targets"].to_list() == [1] * ITEMS
    assert set(per_item["objects"]) <= {2, 3, 4}
    assert truth.filter("is_target")["kind"].n_unique() == 12


def test_the_first_noun_of_a_title_is_often_not_the_target(truth):
    first = truth.drop_nulls("title_start").sort("item", "title_start").group_by("item", maintain_order=True).first()
    share = first["is_target"].mean()
    assert 0.5 < share < 0.9


def test_masks_are_not_empty_and_do_not_overlap(truth):
    for _, objects in truth.group_by("item"):
        masks = np.stack([decode_mask(runs) for runs in objects["mask"]])
        assert masks.shape[1:] == (128, 128)
        assert masks.any(axis=(1, 2)).all()
        assert masks.sum(axis=0).max() == 1
        assert masks[objects["is_target"].to_numpy()].sum() > 500


def test_the_target_stands_out_of_its_background(folder, truth):
    row = truth.filter(pl.col("is_target") & (pl.col("colour") == "red") & (pl.col("style") == "plain")).row(
        0, named=True
    )
    photo = np.asarray(Image.open(folder / "photos" / f"{row['item']:05d}.png")).astype(float)
    red, green, blue = photo[decode_mask(row["mask"])].mean(axis=0)
    assert red > 1.3 * max(green, blue)


def test_users_choose_by_the_target_not_by_its_company():
    scenes = draw_scenes(0, 480)
    users, items = draw_choices(0, scenes, 600)
    assert np.bincount(users, minlength=600).min() >= 5

    def agreement(labels):
        """How often two choices of one user have the same label, relative to two choices of different users."""
        _, codes = np.unique(labels, return_inverse=True)
        counts = np.zeros((600, codes.max() + 1))
        np.add.at(counts, (users, codes[items]), 1)
        total = counts.sum(axis=1)
        within = (counts * (counts - 1)).sum() / (total * (total - 1)).sum()
        return within / ((counts.sum(axis=0) / counts.sum()) ** 2).sum()

    targets = [scene.target for scene in scenes]
    company = [scene.auxiliaries[0] for scene in scenes]
    assert agreement([thing.kind for thing in targets]) > 1.5
    assert agreement([thing.colour for thing in targets]) > 1.3
    assert agreement([thing.style for thing in targets]) > 1.2
    assert agreement([thing.kind for thing in company]) < 1.1
    assert agreement([str(thing.colour) for thing in company]) < 1.1


def test_another_seed_is_another_catalogue(folder):
    other = demo_folder(seed=1, num_items=ITEMS, num_users=USERS)
    assert other != folder
    mine, its = hashes(folder), hashes(other)
    assert mine.keys() == its.keys()
    assert not [name for name in mine if mine[name] == its[name] and name != "users.parquet"]


def test_nothing_is_left_when_the_making_fails(cache, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("mmfast.data.demo.draw_choices", fail)
    before = sorted(path.name for path in (cache / "data").iterdir())
    with pytest.raises(MmfastError, match="disk full"):
        demo_folder(seed=9, num_items=24, num_users=5)
    assert sorted(path.name for path in (cache / "data").iterdir()) == before


@pytest.mark.parametrize("mask", [np.zeros((4, 4), bool), np.ones((4, 4), bool), np.eye(4, dtype=bool)])
def test_masks_survive_their_encoding(mask):
    runs = encode_mask(mask)
    assert runs.sum() == 16
    np.testing.assert_array_equal(decode_mask(runs, 4), mask)


def test_bad_requests_are_explained(tmp_path):
    with pytest.raises(MmfastError, match="num_items=3"):
        demo_folder(num_items=3)
    with pytest.raises(MmfastError, match="only folders made by demo_folder"):
        demo_truth(tmp_path)
    with pytest.raises(MmfastError, match="7 pixels, not 4 x 4 = 16"):
        decode_mask([3, 4], 4)
