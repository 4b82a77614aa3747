"""Batches of training triples: which rows, in which order, with which negatives; all a function of (seed, epoch, step).

"rows" is the pass over shuffled train rows of most papers (MMRec); "users" is the user-balanced draw of the LATTICE,
MICRO and CKD programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mmfast.data.dataset import Dataset
from mmfast.errors import MmfastError
from mmfast.ops.compact_ids import compact_ids
from mmfast.ops.sample_negatives import sample_negatives
from mmfast.ops.sample_users import sample_user_rows

ORDERS = ("rows", "users")
NEGATIVES = ("train_items", "all_items")
SHUFFLE, DRAW, NEGATIVE = range(3)  # independent streams of random numbers under one seed
STEPS_AT_ONCE = 64  # batches drawn together: enough to keep threads busy, few enough to need no memory


@dataclass(frozen=True, eq=False)
class Batch:
    """B training entries: int64 ids [B]; neg_items is None for models without negatives.

    num_users and num_items are the sizes of the tables that the ids point into; configured_size is the batch size of
    the config, by which some losses divide even in the shorter last batch (R-HALF). others: further triples (user,
    item, item), int64 [3, G], that a framework scores in the same step; no loss of a model is of them.
    """

    users: Tensor
    pos_items: Tensor
    neg_items: Tensor | None
    num_users: int
    num_items: int
    configured_size: int
    others: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of entries B; the last batch of a pass may be smaller than the configured size."""
        return self.users.numel()

    @cached_property
    def triples(self) -> Tensor:
        """The triples of the batch, then the others, int64 [3, B + G]."""
        own = torch.stack([self.users, self.pos_items, self.neg_items])
        return own if self.others is None else torch.cat([own, self.others], dim=1)

    @cached_property
    def unique_triples(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The users and the items that occur in `triples`, ascending, and the triples as places among them."""
        users, first, second = self.triples
        user_rows, user = compact_ids(users, self.num_users)
        item_rows, items = compact_ids(torch.cat([first, second]), self.num_items)
        return user_rows, item_rows, (user, *items.chunk(2))

    @cached_property
    def unique_users(self) -> tuple[Tensor, Tensor]:
        """The users that occur, others' too, ascending, and for every entry its place among them [B]."""
        if self.others is not None:
            user_rows, _, (user, _, _) = self.unique_triples
            return user_rows, user[: self.size]
        return compact_ids(self.users, self.num_users)

    @cached_property
    def unique_items(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The items that occur, others' too, ascending, and the places of pos_items and neg_items among them [B]."""
        if self.others is not None:
            _, item_rows, (_, pos, neg) = self.unique_triples
            return item_rows, pos[: self.size], neg[: self.size]
        if self.neg_items is None:
            return *compact_ids(self.pos_items, self.num_items), None
        rows, index = compact_ids(torch.cat([self.pos_items, self.neg_items]), self.num_items)
        return rows, index[: self.size], index[self.size :]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`; itself when it is there."""
        if self.users.device == torch.device(device):
            return self
        negatives = None if self.neg_items is None else self.neg_items.to(device)
        return replace(self, users=self.users.to(device), pos_items=self.pos_items.to(device), neg_items=negatives)


class Sampler:
    """Yields the batches of an epoch, on the CPU; the same (seed, epoch, step) is the same batch, in any process.

    order: "rows", one pass over all train rows, shuffled anew every epoch, the last smaller batch kept; "users",
    E // batch_size + 1 steps of batch_size distinct users (repeated only if there are fewer), one of their items each.
    negatives: "train_items", uniform over the items that occur in train, or "all_items"; never an item of the user's.
    Raises MmfastError for unknown names and for a user who has every item that could be a negative.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        order: str = "rows",
        negatives: str = "train_items",
        with_negatives: bool = True,
    ) -> None:
        for name, value, known in (("order", order, ORDERS), ("negatives", negatives, NEGATIVES)):
            if value not in known:
                raise MmfastError(f"sampler: {name}='{value}' is unknown; choose one of {', '.join(known)}")
        if batch_size < 1:
            raise MmfastError(f"sampler: batch_size={batch_size}; choose 1 or more")
        self.batch_size = batch_size
        self.order = order
        self.with_negatives = with_negatives
        self.num_users, self.num_items = dataset.num_users, dataset.num_items
        self._seed = seed
        self._users = torch.tensor(dataset.train.users, dtype=torch.int64)
        self._items = torch.tensor(dataset.train.items, dtype=torch.int64)
        self._ptr, self._row_items = (torch.tensor(array) for array in dataset.train.by_user(self.num_users))
        self._active_users = self._ptr.diff().nonzero()[:, 0]
        allowed = dataset.train_items if negatives == "train_items" else np.arange(self.num_items, dtype=np.int32)
        self._candidates = torch.tensor(allowed)
        self._draw_key, self._negative_key = self._key(DRAW), self._key(NEGATIVE)
        if with_negatives:
            self._check_negatives(dataset)

    @property
    def num_rows(self) -> int:
        """Number of train rows E."""
        return self._users.numel()

    @property
    def steps(self) -> int:
        """Number of batches per epoch."""
        if self.order == "users":
            return self.num_rows // self.batch_size + 1
        return -(-self.num_rows // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` (from 0) from `start_step` on; a resumed epoch goes on where it was left."""
        generator = torch.Generator().manual_seed(self._key(SHUFFLE, epoch))
        order = torch.randperm(self.num_rows, generator=generator) if self.order == "rows" else None
        for first in range(start_step, self.steps, STEPS_AT_ONCE):
            steps = range(first, min(first + STEPS_AT_ONCE, self.steps))
            if order is not None:
                rows = order[first * self.batch_size : steps.stop * self.batch_size]
            else:
                rows = sample_user_rows(
                    self._ptr,
                    self._active_users,
                    self.batch_size,
                    len(steps),
                    self._draw_key,
                    first_draw=epoch * self.steps + first,
                )
            yield from self._batches(rows, position=(epoch * self.steps + first) * self.batch_size)

    def _batches(self, rows: Tensor, position: int) -> Iterator[Batch]:
        """Yield the batches of some train rows, the first of which is entry `position` of the whole run."""
        users, pos_items = self._users[rows], self._items[rows]
        neg_items = None
        if self.with_negatives:
            # The counter is the entry's place in the whole run, so no two entries of a run share random numbers.
            neg_items = sample_negatives(
                users, self._ptr, self._row_items, self._candidates, self._negative_key, offset=position
            )
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            neg = None if neg_items is None else neg_items[part]
            yield Batch(users[part], pos_items[part], neg, self.num_users, self.num_items, self.batch_size)

    def _key(self, *stream: int) -> int:
        """Return a 63-bit seed for one stream; NumPy documents that SeedSequence does not change between versions."""
        return int(np.random.SeedSequence([self._seed, *stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _check_negatives(self, dataset: Dataset) -> None:
        # Train items are candidates under both rules, so a user has all of them exactly when the counts agree.
        full = np.flatnonzero(np.diff(self._ptr.numpy()) == len(self._candidates))
        if not len(full):
            return
        user_ids = getattr(dataset, "user_ids", None)
        name = f"{full[0]}" if user_ids is None else f"{full[0]} ('{user_ids[int(full[0])]}')"
        # Where every item of the catalogue is a candidate already, the other rule adds none.
        wider = len(self._candidates) < self.num_items
        raise MmfastError(
            f"sampler: user {name} has all {len(self._candidates)} candidate items in train ({len(full)} such users), "
            "so no negative exists; remove these users or give them fewer items"
            + (", or set train.negatives=all_items" if wider else "")
        )
