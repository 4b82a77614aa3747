"""Batches follow (seed, epoch, step) alone, cover what the protocol says, and never hold a positive as negative."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmfast.data.interactions import Interactions
from mmfast.data.sampler import Sampler
from mmfast.errors import MmfastError

NUM_USERS, NUM_ITEMS = 50, 40


def dataset(num_users=NUM_USERS, num_items=NUM_ITEMS, pairs=None, **fields):
    """A stand-in: train pairs only; the last user has no train row, the last five items do not occur in train."""
    if pairs is None:
        rng = np.random.default_rng(0)
        pairs = [(u, i) for u in range(num_users - 1) for i in rng.choice(num_items - 5, rng.integers(1, 12), False)]
    users, items = np.array(sorted(pairs), np.int32).T
    train = Interactions(users, items)
    return SimpleNamespace(
        train=train, num_users=num_users, num_items=num_items, train_items=np.unique(items).astype(np.int32), **fields
    )


def triples(batches):
    return torch.cat([torch.stack([b.users, b.pos_items, b.neg_items], 1) for b in batches])


def pairs_of(data):
    return set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))


def test_rows_is_one_pass_with_the_last_partial_batch():
    data = dataset()
    sampler = Sampler(data, batch_size=32, seed=1)
    batches = list(sampler.epoch(0))
    assert len(batches) == sampler.steps == -(-len(data.train) // 32)
    assert [b.size for b in batches[:-1]] == [32] * (sampler.steps - 1)
    assert batches[-1].size == len(data.train) - 32 * (sampler.steps - 1)
    drawn = [(u, p) for u, p, _ in triples(batches).tolist()]
    assert len(drawn) == len(data.train) and set(drawn) == pairs_of(data)
    assert drawn != sorted(drawn)
    assert all(b.users.dtype == b.pos_items.dtype == b.neg_items.dtype == torch.int64 for b in batches)


@pytest.mark.parametrize("order", ["rows", "users"])
@pytest.mark.parametrize("negatives", ["train_items", "all_items"])
def test_negatives_are_allowed_items_without_a_train_row(order, negatives):
    data = dataset()
    sampler = Sampler(data, 32, seed=1, order=order, negatives=negatives)
    drawn = torch.cat([triples(sampler.epoch(e)) for e in range(20)])
    known = pairs_of(data)
    assert all((u, p) in known and (u, n) not in known for u, p, n in drawn.tolist())
    allowed = set(data.train_items.tolist()) if negatives == "train_items" else set(range(NUM_ITEMS))
    assert set(drawn[:, 2].tolist()) == allowed


def test_users_order_draws_distinct_users_with_rows():
    data = dataset()
    sampler = Sampler(data, 16, seed=1, order="users", negatives="all_items")
    assert sampler.steps == len(data.train) // 16 + 1
    batches = [b for e in range(30) for b in sampler.epoch(e)]
    assert all(b.size == 16 == b.users.unique().numel() for b in batches)
    counts = np.bincount(torch.cat([b.users for b in batches]), minlength=NUM_USERS)
    assert counts[-1] == 0  # no train row
    expected = 16 * len(batches) / (NUM_USERS - 1)
    assert np.abs(counts[:-1] - expected).max() < 5 * np.sqrt(expected)  # users, not rows, are equally likely


def test_users_order_repeats_users_only_when_there_are_too_few():
    sampler = Sampler(dataset(), NUM_USERS, seed=1, order="users")
    batch = next(iter(sampler.epoch(0)))
    assert batch.size == NUM_USERS and batch.users.unique().numel() < NUM_USERS


def test_users_order_draws_each_item_of_a_user_alike():
    data = dataset(pairs=[(0, 0), (0, 1), (0, 2), (0, 3), (1, 4)], num_users=2, num_items=7)
    sampler = Sampler(data, 2, seed=3, order="users", negatives="all_items")
    drawn = torch.cat([triples(sampler.epoch(e)) for e in range(500)])
    counts = np.bincount(drawn[drawn[:, 0] == 0][:, 1], minlength=4)
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


@pytest.mark.parametrize("order", ["rows", "users"])
def test_resuming_gives_the_same_batches(order):
    first, second = (Sampler(dataset(), 16, seed=7, order=order) for _ in range(2))
    list(first.epoch(0))
    whole = list(first.epoch(3))
    assert torch.equal(triples(whole[5:]), triples(second.epoch(3, start_step=5)))


@pytest.mark.parametrize("order", ["rows", "users"])
def test_epochs_and_seeds_differ(order):
    sampler = Sampler(dataset(), 16, seed=7, order=order)
    zero, one = triples(sampler.epoch(0)), triples(sampler.epoch(1))
    other = triples(Sampler(dataset(), 16, seed=8, order=order).epoch(0))
    for column in range(3):
        assert not torch.equal(zero[:, column], one[:, column])
        assert not torch.equal(zero[:, column], other[:, column])


def test_unique_rows_rebuild_the_batch():
    batch = next(iter(Sampler(dataset(), 64, seed=1).epoch(0)))
    rows, index = batch.unique_users
    assert torch.equal(rows, batch.users.unique()) and torch.equal(rows[index.long()], batch.users)
    items, pos, neg = batch.unique_items
    assert torch.equal(items, torch.cat([batch.pos_items, batch.neg_items]).unique())
    assert torch.equal(items[pos.long()], batch.pos_items) and torch.equal(items[neg.long()], batch.neg_items)
    assert batch.unique_items is batch.unique_items
    assert batch.to("cpu") is batch


def test_without_negatives():
    batch = next(iter(Sampler(dataset(), 64, seed=1, with_negatives=False).epoch(0)))
    assert batch.neg_items is None
    items, pos, neg = batch.unique_items
    assert neg is None and torch.equal(items[pos.long()], batch.pos_items)
    assert batch.to("meta").neg_items is None


def test_a_user_with_every_item_is_named():
    pairs = [(0, 0), (1, 0), (1, 1), (1, 2)]
    data = dataset(pairs=pairs, num_users=2, num_items=4, user_ids=["anna", "bert"])
    with pytest.raises(
        MmfastError, match=r"user 1 \('bert'\) has all 3 candidate .* fewer items, or set train.negatives=all_"
    ):
        Sampler(data, 2, seed=0)
    assert Sampler(data, 2, seed=0, negatives="all_items").steps == 2
    assert Sampler(data, 2, seed=0, with_negatives=False).steps == 2


@pytest.mark.parametrize("negatives", ["train_items", "all_items"])
def test_a_user_with_the_whole_catalogue_is_not_sent_to_all_items(negatives):
    data = dataset(pairs=[(0, 0), (1, 0), (1, 1), (1, 2)], num_users=2, num_items=3)
    with pytest.raises(MmfastError, match=r"user 1 has all 3 .*; remove these users or give them fewer items$"):
        Sampler(data, 2, seed=0, negatives=negatives)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"order": "row"}, "order='row' is unknown"), ({"negatives": "x"}, "negatives='x'"), ({"batch_size": 0}, "=0;")],
)
def test_bad_settings(fields, message):
    with pytest.raises(MmfastError, match=message):
        Sampler(dataset(), **{"batch_size": 2, "seed": 0, **fields})
