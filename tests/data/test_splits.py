"""Split rules: exact sizes, exact rows where the rule is not random, and the properties where it is."""

import numpy as np
import polars as pl
import pytest

from mmfast.data.splits import part_sizes, read_labels, seed_of, split_rows
from mmfast.errors import MmfastError
from tests.data.sources import frame

# valid and test sizes of users with 3, 4, ... 59 rows, as the MMRec preprocessing gives them
VALID = [1] * 17 + [2] * 10 + [3] * 10 + [4] * 10 + [5] * 10
TEST = [1] * 12 + [2] * 10 + [3] * 10 + [4] * 10 + [5] * 10 + [6] * 5


def random_rows(seed=0, users=300, items=40):
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 30, users)
    user = np.repeat(np.arange(users), count)
    item = np.concatenate([rng.choice(items, n, replace=False) for n in count])
    order = rng.permutation(len(user))
    return frame(user[order], item[order], rng.integers(0, 500, len(user)))


def counts(rows, labels):
    user = rows["user"].to_numpy()
    return [np.bincount(user[labels == part], minlength=int(user.max()) + 1) for part in range(3)]


def test_golden_sizes():
    valid, test = part_sizes(np.arange(3, 60))
    assert valid.tolist() == VALID and test.tolist() == TEST
    lattice_valid, lattice_test = part_sizes(np.arange(3, 60), odd_to_test=False)
    assert lattice_valid[7:].tolist() == TEST[7:] and lattice_test[7:].tolist() == VALID[7:]
    assert lattice_valid[:7].tolist() == lattice_test[:7].tolist() == [1] * 7


def test_users_with_one_or_two_rows_keep_one_to_train_on():
    valid, test = part_sizes(np.array([1, 2]))
    assert valid.tolist() == [0, 0] and test.tolist() == [0, 1]


@pytest.mark.parametrize("rule", ["mmrec", "lattice", "user-time"])
def test_sizes_per_user(rule):
    rows = random_rows()
    labels = split_rows(rows, rule, 3)
    valid, test = part_sizes(np.bincount(rows["user"].to_numpy()), odd_to_test=rule != "lattice")
    found = counts(rows, labels)
    assert labels.dtype == np.int8 and found[1].tolist() == valid.tolist() and found[2].tolist() == test.tolist()


@pytest.mark.parametrize("rule", ["mmrec", "lattice", "cold"])
def test_same_seed_same_rows_other_seed_other_rows(rule):
    rows = random_rows()
    first = split_rows(rows, rule, 3)
    assert (first == split_rows(rows, rule, 3)).all()
    assert (first != split_rows(rows, rule, 4)).mean() > 0.1


def test_random_order_gives_every_row_its_chance():
    rows = frame(np.zeros(10, int), np.arange(10))
    drawn = np.array([split_rows(rows, "mmrec", seed) for seed in range(600)])
    share = (drawn == 2).mean(axis=0)
    assert np.abs(share - 0.1).max() < 0.05 and (drawn == 1).sum(axis=1).tolist() == [1] * 600


def test_leave_one_out_takes_the_newest():
    rows = frame([0, 0, 0, 1, 1, 2, 0], [5, 6, 7, 5, 6, 5, 8], [30, 10, 40, 2, 1, 9, 20])
    assert split_rows(rows, "leave-one-out", 0).tolist() == [1, 0, 2, 2, 0, 0, 0]
    assert split_rows(rows, "leave_one_out", 0).tolist() == [1, 0, 2, 2, 0, 0, 0]


def test_user_time_tests_on_the_newest():
    rows = frame(np.zeros(10, int), np.arange(10), np.arange(10)[::-1])
    assert split_rows(rows, "user-time", 0).tolist() == [2, 1] + [0] * 8


def test_time_cuts_one_clock_for_all():
    rows = frame(np.arange(10) % 3, np.arange(10), [5, 1, 9, 0, 2, 8, 3, 7, 4, 6])
    assert split_rows(rows, "time", 0).tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0, 0]
    assert split_rows(rows, "time:0.5,0.7", 0).tolist() == [1, 0, 2, 0, 0, 2, 0, 2, 0, 1]


def test_rows_of_one_moment_stay_together():
    rows = frame([0] * 10, np.arange(10), [1] * 5 + [2] * 5)
    assert split_rows(rows, "time:0.6,0.8", 0).tolist() == [0] * 5 + [2] * 5


def test_cold_items_never_occur_in_train():
    rows = random_rows(items=43)
    labels = split_rows(rows, "cold", 123)
    items = rows["item"].to_numpy()
    groups = [set(items[labels == part].tolist()) for part in range(3)]
    present = len(set(items.tolist()))
    chosen = int(0.2 * present)
    assert [len(group) for group in groups] == [present - chosen, chosen - chosen // 2, chosen // 2]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_cold_draws_among_items_with_rows_only():
    rows = frame(np.arange(10), np.arange(10) * 7)
    labels = split_rows(rows, "cold", 1)
    assert sorted(labels.tolist()) == [0] * 8 + [1, 2]


@pytest.mark.parametrize("rule", ["leave-one-out", "user-time", "time"])
def test_rules_by_time_need_a_time(rule):
    with pytest.raises(MmfastError, match=f"'{rule}' needs the time"):
        split_rows(frame([0, 0], [0, 1]), rule, 0)


@pytest.mark.parametrize("rule", ["time:0.9,0.8", "time:0.5", "time:a,b", "time:0,1"])
def test_bad_cut_points(rule):
    with pytest.raises(MmfastError, match="two growing cut points"):
        split_rows(frame([0, 0], [0, 1], [0, 1]), rule, 0)


@pytest.mark.parametrize("rule", ["leave-one-out", "leave_one_out", "user-time", "time:0.5,0.7"])
def test_a_rule_by_time_has_no_seed(rule):
    assert seed_of(rule, None) is None
    with pytest.raises(MmfastError, match=f"split_seed is 3, but split rule '{rule}' draws nothing; leave the seed"):
        seed_of(rule, 3)


def test_unknown_rule_is_named_with_a_suggestion():
    with pytest.raises(MmfastError, match=r"unknown split rule 'latice'. Did you mean 'lattice'"):
        split_rows(frame([0], [0]), "latice", 0)


def test_labels_as_numbers_or_words():
    assert read_labels(pl.Series("split", [0, 2, 1])).tolist() == [0, 2, 1]
    words = pl.Series("split", ["train", "Valid", "val", "validation", "dev", "test", "1"])
    assert read_labels(words).tolist() == [0, 1, 1, 1, 1, 2, 1]


@pytest.mark.parametrize(("bad", "shown"), [("holdout", "holdout"), (None, "None"), ("3", "3")])
def test_a_label_that_cannot_be_read(bad, shown):
    with pytest.raises(MmfastError, match=f"'part': row 1 says '{shown}'"):
        read_labels(pl.Series("part", ["0", bad, "1"]))
