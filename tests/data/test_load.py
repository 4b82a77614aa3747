"""load_dataset: names, paths, the cache, choices of features and splits, and what it says when it cannot."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmfast.data import locate
from mmfast.data.datasets import Card
from mmfast.data.load import load_dataset
from mmfast.errors import MmfastError
from mmfast.prepare import prepare
from tests.data.sources import numbered, pairs, plain_rows, write_plain, write_text


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMFAST_DATA", raising=False)
    return tmp_path / "cache" / "data"


def test_path_name_and_config_give_the_same(tmp_path, cache, monkeypatch):
    folder = write_plain(tmp_path / "root" / "shop", features={"text_feat": numbered(9, 3)})
    data = load_dataset(str(folder))
    assert data.name == "shop" and (data.num_users, data.num_items) == (12, 9)
    config = SimpleNamespace(name="shop", root=str(tmp_path / "root"), features=None, split="auto")
    loaded = [load_dataset("shop", root=str(tmp_path / "root")), load_dataset(config)]
    loaded += [load_dataset(SimpleNamespace(data=config)), load_dataset(folder)]
    monkeypatch.setenv("MMFAST_DATA", str(tmp_path / "root"))
    loaded.append(load_dataset("shop"))
    assert {d.fingerprint for d in loaded} == {data.fingerprint} and len(list(cache.iterdir())) == 1


def test_prepared_folder_is_loaded_as_it_is(tmp_path, cache):
    source = write_plain(tmp_path / "shop", features={"text_feat": numbered(9, 3)})
    data = load_dataset(str(prepare(source, tmp_path / "ready")))
    assert not cache.exists() and data.fingerprint == load_dataset(str(source)).fingerprint


def test_folders_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "my [*] cache?"))
    source = write_plain(tmp_path / "shop [bold] *", features={"text_feat": numbered(9, 3)})
    data = load_dataset(str(source))
    again = load_dataset(str(prepare(source, tmp_path / "ready [v2]?")))
    assert again.fingerprint == data.fingerprint and again.user_id(3) == data.user_id(3)


def test_a_changed_source_is_prepared_again(tmp_path, cache):
    folder = write_plain(tmp_path / "shop", features={"text_feat": numbered(9, 3)})
    first = load_dataset(str(folder))
    stat = (folder / "text_feat.npy").stat()
    np.save(folder / "text_feat.npy", numbered(9, 3) * 2)
    # Equal size and time must not hide the change.
    os.utime(folder / "text_feat.npy", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = load_dataset(str(folder))
    assert second.features["text"][0, 0] == 2 and second.fingerprint != first.fingerprint
    assert len(list(cache.iterdir())) == 2


def test_preparing_into_the_cache_tells_what_was_left_out_and_what_is_missing(tmp_path):
    rows = [(u, i, s, [0, 0, 0, 0, 1, 2][s % 6]) for s, (u, i) in enumerate(plain_rows())]
    rows += [(0, 0, 99, 0), (0, 1, 99, 2), rows[0], ("", 1, 1, 0)]
    features = {"text_feat": numbered(9, 3), "image_feat": numbered(9, 2)}
    features["text_feat"][[2, 5]] = 0
    folder = write_plain(tmp_path / "shop", rows, features=features, header="user,item,time,split")
    heard = []
    load_dataset(str(folder), stage=heard.append)
    assert heard[heard.index("hashing") + 1 :] == [
        "dropped: 1 incomplete rows",
        "dropped: 1 repeated pairs in train",
        "dropped: 1 repeated rows",
        "kept: 1 test pairs that are in train too",
        "features 'text': 2 of 9 items have none",
    ]
    heard.clear()
    load_dataset(str(folder), stage=heard.append)
    assert heard == []


def test_another_split_of_a_prepared_folder_counts_its_own_pairs_in_two_parts(tmp_path):
    labels = [0, 0, 0, 0, 1, 2] * 12
    source = write_plain(tmp_path / "shop", [*plain_rows(), (0, 0)], [*labels, 2])
    ready = prepare(source, tmp_path / "ready")
    assert load_dataset(str(ready)).manifest["train_pairs_held_out"] == {"valid": 0, "test": 1}
    data = load_dataset(str(ready), split="mmrec")
    both = {part: len(pairs(data.train) & pairs(data.part(part))) for part in ("valid", "test")}
    assert data.manifest["train_pairs_held_out"] == both


def test_settings_are_part_of_the_key(tmp_path, cache):
    folder = write_plain(tmp_path / "shop", rows=plain_rows(20, 15, 8))
    fingerprints = {load_dataset(str(folder), split_seed=seed).fingerprint for seed in (1, 2)}
    fingerprints |= {load_dataset(str(folder), split=rule).fingerprint for rule in ("lattice", "cold")}
    assert len(fingerprints) >= 3 and len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes(tmp_path, cache, seed):
    folder = write_plain(tmp_path / "shop", rows=plain_rows(20, 15, 8))
    with pytest.raises(MmfastError, match=rf"split_seed is {seed}; want a whole number from 0 to"):
        load_dataset(str(folder), split_seed=seed)
    with pytest.raises(MmfastError, match=rf"split_seed is {seed}; want"):
        prepare(folder, tmp_path / "out", seed=seed)
    assert not (tmp_path / "out").exists()


def test_two_processes_at_once(tmp_path, cache):
    folder = write_plain(tmp_path / "shop", features={"text_feat": numbered(9, 3)})
    code = f"from mmfast.data.load import load_dataset; print(load_dataset({str(folder)!r}).fingerprint)"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "POLARS_MAX_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    printed = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert printed == {load_dataset(str(folder)).fingerprint} and len(list(cache.iterdir())) == 1


def test_features_by_name_by_file_and_none(tmp_path):
    features = {"text_feat": numbered(9, 3), "image_feat": numbered(9, 2), "text_feat_big": numbered(9, 7)}
    folder = write_plain(tmp_path / "shop", features=features)
    for path in (folder, prepare(folder, tmp_path / "ready")):
        assert load_dataset(str(path)).modalities == ("image", "text")
        assert load_dataset(str(path), features=["image"]).modalities == ("image",)
        assert load_dataset(str(path), features=[]).modalities == ()
        other = load_dataset(str(path), features={"text": str(folder / "text_feat_big.npy")})
        assert other.modalities == ("text",) and other.features["text"].shape == (9, 7)
        with pytest.raises(MmfastError, match=r"no features 'txt'\..*Did you mean 'text'.*Known: image, text"):
            load_dataset(str(path), features=["txt"])
        with pytest.raises(MmfastError, match="does not exist"):
            load_dataset(str(path), features={"text": "nowhere.npy"})
    assert load_dataset(str(folder), features={"text": "text_feat_big.npy"}).features["text"].shape == (9, 7)


def test_a_chosen_file_that_does_not_fit_a_prepared_folder(tmp_path):
    folder = prepare(write_plain(tmp_path / "shop"), tmp_path / "ready")
    np.save(tmp_path / "short.npy", numbered(8, 2))
    with pytest.raises(MmfastError, match=r"'text' of 'short.npy' have 8 rows but there are 9 items"):
        load_dataset(str(folder), features={"text": str(tmp_path / "short.npy")})


def test_split_of_the_data_or_another(tmp_path):
    labels = [0, 0, 0, 0, 1, 2] * 12
    folder = write_plain(tmp_path / "shop", labels=labels)
    given = load_dataset(str(folder))
    expected = {row for row, label in zip(plain_rows(), labels, strict=True) if label == 2}
    assert pairs(given.test) == expected and given.manifest["split"] == {"rule": "column", "seed": None}
    drawn = load_dataset(str(folder), split="mmrec")
    assert drawn.fingerprint != given.fingerprint and len(drawn.test) == 12
    again = load_dataset(str(prepare(folder, tmp_path / "ready")), split="mmrec")
    assert again.fingerprint == drawn.fingerprint and again.manifest["split"] == {"rule": "mmrec", "seed": 999}


def test_cold_users_are_dropped_or_kept(tmp_path):
    labels = [1, 1, 1, 2, 2, 2] + [0, 0, 0, 0, 1, 2] * 11
    folder = write_plain(tmp_path / "shop", labels=labels)
    dropped, kept = load_dataset(str(folder)), load_dataset(str(folder), cold_users="keep")
    assert dropped.manifest["dropped"]["cold_user_rows"] == {"valid": 3, "test": 3}
    assert (len(dropped.test), len(kept.test)) == (11, 14) and dropped.num_users == kept.num_users == 12
    ready = prepare(folder, tmp_path / "kept", cold_users="keep")
    assert load_dataset(str(ready)).fingerprint == dropped.fingerprint
    assert load_dataset(str(ready), cold_users="keep").fingerprint == kept.fingerprint
    with pytest.raises(MmfastError, match="lacks 6 rows of users without a train row"):
        load_dataset(str(prepare(folder, tmp_path / "gone")), cold_users="keep")
    with pytest.raises(MmfastError, match="cold_users is 'maybe'; want drop or keep"):
        load_dataset(str(folder), cold_users="maybe")


@pytest.mark.parametrize(("stored", "asked"), [(0, 5), (2, 0), (2, 1), (3, 2)])
def test_k_core_of_a_prepared_folder_is_not_silently_ignored(tmp_path, stored, asked):
    ready = prepare(write_plain(tmp_path / "shop"), tmp_path / "ready", k_core=stored)
    with pytest.raises(MmfastError, match=f"made with k_core={stored}, not {asked}; prepare it again.*or leave data.k"):
        load_dataset(str(ready), k_core=asked)
    assert load_dataset(str(ready), k_core=stored).fingerprint == load_dataset(str(ready)).fingerprint


def test_no_k_core_is_0_or_1(tmp_path):
    ready = prepare(write_plain(tmp_path / "shop"), tmp_path / "ready")
    assert load_dataset(str(ready), k_core=1).fingerprint == load_dataset(str(ready), k_core=0).fingerprint


def test_a_seed_that_no_split_uses_is_not_silently_ignored(tmp_path, cache):
    labelled = write_plain(tmp_path / "labelled", labels=[0, 0, 0, 0, 1, 2] * 12)
    for make in (lambda: load_dataset(str(labelled), split_seed=7), lambda: prepare(labelled, tmp_path / "x", seed=7)):
        with pytest.raises(MmfastError, match=r"seed of the split is 7 but the data carry their own split.*leave the"):
            make()
    assert not cache.exists() and not (tmp_path / "x").exists()
    ready = prepare(labelled, tmp_path / "ready")
    with pytest.raises(MmfastError, match=r"'column' with no seed, not seed 7; leave .* data.split=mmrec"):
        load_dataset(str(ready), split_seed=7)
    drawn = prepare(labelled, tmp_path / "drawn", split="lattice", seed=3)
    with pytest.raises(MmfastError, match=r"'lattice' with seed 3, not seed 7; leave .* data.split=lattice"):
        load_dataset(str(drawn), split_seed=7)
    assert load_dataset(str(drawn), split_seed=3).fingerprint == load_dataset(str(drawn)).fingerprint
    assert load_dataset(str(drawn), split_seed=7, split="lattice").manifest["split"]["seed"] == 7


def test_a_split_column_that_a_prepared_folder_lacks_is_not_silently_ignored(tmp_path):
    rows = [(u, i, [0, 0, 0, 0, 1, 2][s % 6]) for s, (u, i) in enumerate(plain_rows())]
    source = write_plain(tmp_path / "shop", rows, header="user,item,fold")
    drawn = prepare(source, tmp_path / "drawn")
    for changes in ({"split": "column"}, {"split_column": "fold"}, {"split": "mmrec", "split_column": "fold"}):
        with pytest.raises(MmfastError, match=r"the split of rule 'mmrec' and no split column .*; leave data.split"):
            load_dataset(str(drawn), **changes)
    ready = prepare(source, tmp_path / "ready", split_column="fold")
    given = load_dataset(str(ready), split="column", split_column="fold")
    assert given.fingerprint == load_dataset(str(ready)).fingerprint
    assert given.fingerprint == load_dataset(str(source), split_column="fold").fingerprint
    with pytest.raises(MmfastError, match=r"by the labels of fold, not of 'nope'; leave data\.split_column out"):
        load_dataset(str(ready), split_column="nope")
    usual = prepare(write_plain(tmp_path / "usual", labels=[0, 0, 0, 0, 1, 2] * 12), tmp_path / "named")
    assert load_dataset(str(usual), split_column="x_label").manifest["split"]["rule"] == "column"
    with pytest.raises(MmfastError, match="by the labels of split or x_label, not of 'fold'"):
        load_dataset(str(usual), split_column="fold")


def test_unknown_names_fields_and_objects(tmp_path):
    write_plain(tmp_path / "toyshop")
    with pytest.raises(MmfastError, match=r"unknown data set 'sport'.*Did you mean 'sports'.*Built in: demo, baby"):
        load_dataset("sport", root=str(tmp_path))
    with pytest.raises(MmfastError, match=r"Did you mean 'toyshop'.*folders in .*: toyshop"):
        load_dataset("toy-shop", root=str(tmp_path))
    with pytest.raises(MmfastError, match="there is no such folder"):
        load_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(MmfastError, match=r"unknown field 'rot'. Did you mean 'root'"):
        load_dataset("baby", rot="x")
    with pytest.raises(MmfastError, match="got int; want a name, a path or a data config"):
        load_dataset(3)


def test_a_built_in_set_that_is_not_there_says_where_to_get_it(tmp_path):
    with pytest.raises(MmfastError) as caught:
        load_dataset("baby", root=str(tmp_path))
    message = str(caught.value)
    for part in ("ratings_Baby.csv", "meta_Baby.json.gz", "image_features_Baby.b", "McAuley lab", "MMFAST_DATA"):
        assert part in message
    assert f"mmfast prepare {tmp_path}/baby {tmp_path}/baby-prepared" in message


@pytest.mark.parametrize("folder", ["baby", "amazon-baby"])
def test_counts_of_a_built_in_set_are_checked(tmp_path, folder):
    write_plain(tmp_path / folder)
    with pytest.raises(MmfastError, match="12 users where 19,445 are published, 9 items where 7,050"):
        load_dataset("baby", root=str(tmp_path))
    with pytest.warns(UserWarning, match="72 interactions where 160,792 are published"):
        data = load_dataset("baby", root=str(tmp_path), split="lattice")
    assert data.name == "baby"
    with pytest.warns(UserWarning, match="accepted"):
        load_dataset("baby", root=str(tmp_path), k_core=2)
    assert load_dataset(str(tmp_path / folder)).num_users == 12


def test_rows_that_were_dropped_count_as_published(tmp_path, monkeypatch):
    write_plain(tmp_path / "mini", rows=[*plain_rows(), (0, 0)])
    monkeypatch.setattr(locate, "card_of", lambda name: ("mini", Card(12, 9, 72, (), "")))
    assert load_dataset("mini", root=str(tmp_path)).manifest["dropped"]["repeated_rows"] == 1


def test_an_empty_part_is_refused(tmp_path):
    folder = write_plain(tmp_path / "shop", labels=[0, 0, 0, 0, 0, 2] * 12)
    with pytest.raises(MmfastError, match="the valid part is empty after splitting 72 rows"):
        load_dataset(str(folder))


def test_a_folder_without_data_lists_what_it_has(tmp_path):
    write_text(tmp_path / "shop" / "notes.txt", "hello")
    with pytest.raises(MmfastError, match=r"holds no data of format auto \(notes.txt\); want NAME.inter"):
        load_dataset(str(tmp_path / "shop"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k_core": 3}, "data.k_core=3: the demo catalogue is made as it is; leave data.k_core out$"),
        ({"split_seed": 5}, "'mmrec' with seed 999, not seed 5; leave data.split_seed out"),
        ({"split": "column"}, "no split column 'split'"),
    ],
)
def test_what_the_demo_was_not_made_with_is_told(tmp_path, monkeypatch, changes, message):
    ready = prepare(write_plain(tmp_path / "shop"), tmp_path / "demo")
    monkeypatch.setattr("mmfast.data.demo.demo_folder", lambda: ready)
    with pytest.raises(MmfastError, match=message):
        load_dataset("demo", **changes)
