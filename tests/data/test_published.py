"""The published data sets under MMFAST_DATA: counts, parts and features as their sources state them."""

import os

import numpy as np
import pytest

from mmfast.data.load import load_dataset

pytestmark = pytest.mark.data

PARTS = {
    "baby": (119_674, 20_559, 20_559),
    "sports": (218_409, 40_029, 37_899),
    "clothing": (197_338, 41_189, 40_150),
    "scientific": (13_763, 2_928, 2_928),
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))
    assert os.environ.get("MMFAST_DATA"), "set MMFAST_DATA to the folder with the data sets"


def sizes(data):
    return len(data.train), len(data.valid), len(data.test)


@pytest.mark.parametrize("name", PARTS)
def test_given_splits(name):
    data = load_dataset(name)
    assert sizes(data) == PARTS[name] and data.manifest["split"]["rule"] == "column"


def test_baby():
    data = load_dataset("baby")
    assert (data.num_users, data.num_items, data.modalities) == (19_445, 7_050, ("text",))
    assert len(data.missing["text"]) == 7_050 - 3_416 and data.features["text"].shape == (7_050, 384)
    assert data.user_id(0) == "A00097001C4CLB27DQV4U" and data.item_index("9729375011") == 1
    assert sizes(load_dataset("baby", split_column="split_diffmm")) == (118_551, 21_682, 20_559)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("baby", (118_551, 20_559, 21_682)),
        ("sports", (218_409, 37_899, 40_029)),
        ("clothing", (197_338, 40_150, 41_189)),
    ],
)
def test_the_mmrec_rule_gives_the_official_sizes(name, expected):
    data = load_dataset(name, split="mmrec")
    assert sizes(data) == expected
    lattice = load_dataset(name, split="lattice")
    assert sizes(lattice) == (expected[0], expected[2], expected[1])


def test_scientific():
    data = load_dataset("scientific")
    assert (data.num_users, data.num_items, data.modalities) == (2_928, 1_585, ("image", "text"))
    assert {m: a.shape for m, a in data.features.items()} == {"image": (1_585, 512), "text": (1_585, 512)}
    assert all(not len(items) for items in data.missing.values())
    assert data.manifest["dropped"]["repeated_pairs"] == {"train": 93, "valid": 0, "test": 0}
    assert data.item_title(1).startswith("Shoe GOO")
    again = load_dataset("scientific", split="leave-one-out")
    assert (again.test.items == data.test.items).all() and (again.valid.items == data.valid.items).all()


def test_beauty_has_no_split_of_its_own():
    data = load_dataset("beauty")
    assert (data.num_users, data.num_items, sum(sizes(data))) == (22_363, 12_101, 198_502)
    assert data.manifest["split"] == {"rule": "mmrec", "seed": 999}
    assert sizes(load_dataset("beauty", split="user-time")) == sizes(data)
    assert sizes(load_dataset("beauty", split="leave-one-out")) == (198_502 - 2 * 22_363, 22_363, 22_363)


@pytest.mark.parametrize("name", ["baby", "sports", "clothing"])
def test_published_sets_are_their_own_5_core(name):
    with_core, without = load_dataset(name, k_core=5, split="mmrec"), load_dataset(name, split="mmrec")
    assert with_core.manifest["dropped"]["k_core_rows"] == 0 and with_core.fingerprint == without.fingerprint


def test_cold_items_have_no_train_row():
    data = load_dataset("sports", split="cold", split_seed=123)
    held = np.union1d(data.valid.items, data.test.items)
    assert np.isin(held, data.cold_items).all() and len(data.cold_items) == int(0.2 * 18_357)
