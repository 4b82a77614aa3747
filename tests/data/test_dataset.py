"""Dataset and Interactions: what they refuse, what they answer, and that nobody can write into them."""

import numpy as np
import polars as pl
import pytest

from mmfast.data.dataset import Dataset
from mmfast.data.hashing import hash_array, hash_file
from mmfast.data.ids import IdTable
from mmfast.data.interactions import Interactions
from mmfast.errors import MmfastError


def part(*pairs):
    users, items = np.array(pairs).T
    return Interactions.from_pairs(users, items)


def tiny(**changes):
    fields = {
        "num_users": 3,
        "num_items": 4,
        "train": part((2, 1), (0, 3), (0, 0), (1, 1)),
        "valid": part((0, 1), (1, 2)),
        "test": part((0, 2)),
    }
    return Dataset("tiny", **{**fields, **changes})


def test_pairs_are_sorted_and_grouped_by_user():
    train = tiny().train
    assert train.users.tolist() == [0, 0, 1, 2] and train.items.tolist() == [0, 3, 1, 1]
    offsets, items = train.by_user(4)
    assert offsets.tolist() == [0, 2, 3, 4, 4] and offsets.dtype == np.int64
    assert items.dtype == np.int32 and items[offsets[0] : offsets[1]].tolist() == [0, 3]
    assert train.by_user(4)[0] is offsets


def test_arrays_cannot_be_written():
    data = tiny(features={"text": np.ones((4, 2), np.float32)})
    arrays = [data.train.users, data.train.items, data.train.by_user(3)[0], data.features["text"], data.train_items]
    for array in [*arrays, data.missing["text"], data.cold_items]:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError):
        data.features["image"] = data.features["text"]
    with pytest.raises(AttributeError):
        data.name = "other"


def test_the_array_given_stays_writeable():
    given = np.ones((4, 2), np.float32)
    tiny(features={"text": given})
    given[0, 0] = 2


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 0], [1, 1], r"pair \(user 0, item 1\) is repeated, 1 repeats"),
        ([1, 0], [0, 0], r"row 1 \(user 0, item 0\) is out of order"),
        ([0, 0], [2, 1], r"row 1 \(user 0, item 1\) is out of order"),
        ([0], [0, 1], "1 users but 2 items"),
        ([-1, 0], [0, 0], "users run from -1 to 0"),
        ([0], [2**31], "items run from 2147483648"),
        ([0.5], [1.0], "type float64"),
    ],
)
def test_bad_pairs_are_refused(users, items, message):
    with pytest.raises(MmfastError, match=message):
        Interactions(np.array(users), np.array(items))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": part((3, 0))}, "user 3 of the train part is out of range; there are 3 users"),
        ({"test": part((0, 4))}, "item 4 of the test part is out of range; there are 4 items"),
        ({"train": Interactions(np.zeros(0, int), np.zeros(0, int))}, "the train part is empty"),
        ({"valid": Interactions(np.zeros(0, int), np.zeros(0, int))}, "the valid part is empty"),
        ({"test": Interactions(np.zeros(0, int), np.zeros(0, int))}, "the test part is empty"),
        ({"features": {"text": np.ones((5, 2), np.float32)}}, "'text' have 5 rows but there are 4 items"),
        ({"features": {"text": np.ones(4, np.float32)}}, r"'text' have shape \(4,\)"),
        ({"features": {"text": np.ones((4, 2))}}, "'text' are float64; save them as float32"),
        ({"features": {"text": np.ones((4, 2), np.float32)}, "missing": {"text": [7]}}, "missing items run from 7"),
    ],
)
def test_bad_data_sets_are_refused(changes, message):
    with pytest.raises(MmfastError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_named_with_row_and_count(value):
    features = np.ones((4, 2), np.float16)
    features[1, 1] = features[3, 0] = value
    with pytest.raises(MmfastError, match="'image' have NaN or infinite values in 2 of 4 rows, first in row 1"):
        tiny(features={"image": features})


def test_bad_values_are_found_in_any_block(monkeypatch):
    monkeypatch.setattr("mmfast.data.features.row_blocks", lambda array: [(0, 2), (2, 3), (3, 4)])
    features = np.ones((4, 2), np.float32)
    features[3] = np.nan
    with pytest.raises(MmfastError, match="in 1 of 4 rows, first in row 3"):
        tiny(features={"image": features})


def test_zero_rows_are_missing_not_wrong():
    features = np.ones((4, 2), np.float32)
    features[2] = 0
    data = tiny(features={"text": features}, missing={"text": np.array([0, 2])})
    assert data.missing["text"].tolist() == [0, 2] and data.missing["text"].dtype == np.int64


def test_a_user_may_have_every_item():
    data = tiny(train=part(*[(0, i) for i in range(4)], (1, 0)))
    assert data.train.by_user(3)[0].tolist() == [0, 4, 5, 5]
    assert data.cold_items.tolist() == []


def test_train_and_cold_items():
    data = tiny()
    assert data.train_items.tolist() == [0, 1, 3] and data.train_items.dtype == np.int32
    assert data.cold_items.tolist() == [2]


def test_original_ids_both_ways():
    users = IdTable("user", 3, lambda: pl.DataFrame({"id": ["ann", "bob", "cleo"]}))
    items = IdTable("item", 4, lambda: pl.DataFrame({"id": ["x", "y", "z", "w"], "title": ["Ex", None, "Zed", "W"]}))
    data = tiny(user_id_table=users, item_id_table=items)
    assert data.user_id(1) == "bob" and data.user_index("cleo") == 2
    assert data.users_to_index(["cleo", "ann", "cleo"]).tolist() == [2, 0, 2]
    assert data.items_to_index([]).tolist() == [] and data.items_to_index(["w"]).dtype == np.int64
    assert data.item_title(0) == "Ex" and data.item_title(1) == ""
    assert data.item_table().columns == ["id", "title"]
    with pytest.raises(MmfastError, match=r"unknown user id 'anna' and 1 more.*Did you mean 'ann'"):
        data.users_to_index(["anna", "bob", "zoe"])
    with pytest.raises(MmfastError, match="item 4 is out of range; there are 4"):
        data.item_id(4)


def test_without_tables_the_ids_are_numbers():
    data = tiny()
    assert data.user_ids.to_list() == ["0", "1", "2"] and data.item_index("3") == 3 and data.item_title(3) == ""


def test_repeated_or_missing_ids_and_wrong_counts_are_refused():
    with pytest.raises(MmfastError, match="user id 'a' stands for 2 users"):
        tiny(user_id_table=IdTable("user", 3, lambda: pl.DataFrame({"id": ["a", "b", "a"]}))).user_id(0)
    with pytest.raises(MmfastError, match="1 rows without an id"):
        tiny(user_id_table=IdTable("user", 3, lambda: pl.DataFrame({"id": ["a", None, "c"]}))).user_id(0)
    with pytest.raises(MmfastError, match="table of items has 1 rows but there are 4"):
        tiny(item_id_table=IdTable("item", 4, lambda: pl.DataFrame({"id": ["a"]}))).item_table()


def test_fingerprint_follows_the_content_alone():
    features = {"text": np.ones((4, 2), np.float32)}
    first = tiny(features=features)
    assert first.fingerprint == tiny(features=features, manifest={"name": "x"}).fingerprint
    assert len(first.fingerprint) == 64
    other = [
        tiny(),
        tiny(features={"text": features["text"] * 2}),
        tiny(features={"image": features["text"]}),
        tiny(features=features, test=part((0, 1))),
        tiny(features=features, num_users=4),
    ]
    assert len({first.fingerprint, *(data.fingerprint for data in other)}) == 6


def test_hash_of_an_array_is_the_hash_of_its_file(tmp_path):
    array = np.arange(12, dtype=np.float16).reshape(6, 2)
    np.save(tmp_path / "a.npy", array)
    mapped = np.lib.format.open_memmap(tmp_path / "b.npy", mode="w+", dtype=array.dtype, shape=array.shape)
    mapped[:] = array
    mapped.flush()
    assert hash_array(array) == hash_file(tmp_path / "a.npy") == hash_file(tmp_path / "b.npy")


def test_with_features_checks_again():
    data = tiny(features={"text": np.ones((4, 2), np.float32)})
    other = data.with_features({"image": np.zeros((4, 3), np.float32)})
    assert other.modalities == ("image",) and other.missing["image"].tolist() == [0, 1, 2, 3]
    assert other.train is data.train and other.fingerprint != data.fingerprint


def test_repr_and_parts():
    data = tiny(features={"text": np.ones((4, 2), np.float32)})
    assert repr(data) == ("Dataset 'tiny': 3 users x 4 items, interactions 4 train / 2 valid / 1 test, features text 2")
    assert data.part("valid") is data.valid
    with pytest.raises(MmfastError, match=r"unknown part 'tset'. Did you mean 'test'"):
        data.part("tset")
