"""Dataset: interactions in three parts, item features and original ids, checked once and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from mmfast.data.features import check_feature_shape, check_modality, zero_rows
from mmfast.data.hashing import hash_array, hash_json
from mmfast.data.ids import IdTable
from mmfast.data.interactions import Interactions
from mmfast.errors import MmfastError, suggest

__all__ = ["PARTS", "Dataset", "Interactions"]

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Users 0..U-1, items 0..I-1, three parts and features [I, F] per modality; all arrays are read-only.

    `missing` are item ids known to have no feature, per modality; all-zero rows are added to them. `checked` names
    modalities whose values were checked when they were written, `known_hashes` their sha256: neither is computed
    again. Raises MmfastError for ids out of range, an empty part, a modality's name that cannot be a key, or features
    that do not fit the items.

    >>> pairs = Interactions.from_pairs(np.array([0, 1]), np.array([1, 0]))
    >>> Dataset("tiny", num_users=2, num_items=2, train=pairs, valid=pairs, test=pairs)
    Dataset 'tiny': 2 users x 2 items, interactions 2 train / 2 valid / 2 test, no features
    """

    name: str
    num_users: int
    num_items: int
    train: Interactions
    valid: Interactions
    test: Interactions
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    missing: Mapping[str, np.ndarray] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    user_id_table: IdTable | None = None
    item_id_table: IdTable | None = None
    known_hashes: Mapping[str, str] = field(default_factory=dict)
    checked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for part in PARTS:
            self._check_part(part)
        for modality in self.features:
            check_modality(modality)
        features = {modality: _read_only(array) for modality, array in self.features.items()}
        put = object.__setattr__
        put(self, "features", MappingProxyType(features))
        put(self, "missing", MappingProxyType({m: self._missing_items(m, a) for m, a in features.items()}))
        put(self, "manifest", MappingProxyType(dict(self.manifest)))
        put(self, "known_hashes", MappingProxyType({m: h for m, h in self.known_hashes.items() if m in features}))
        put(self, "user_id_table", self.user_id_table or IdTable("user", self.num_users))
        put(self, "item_id_table", self.item_id_table or IdTable("item", self.num_items))

    def _check_part(self, part: str) -> None:
        pairs: Interactions = getattr(self, part)
        if not len(pairs):
            raise MmfastError(
                f"data set '{self.name}': the {part} part is empty; choose another split rule (data.split) "
                "or give the rows of that part"
            )
        for kind, ids, count in (("user", pairs.users, self.num_users), ("item", pairs.items, self.num_items)):
            if int(ids.max()) >= count:
                raise MmfastError(
                    f"data set '{self.name}': {kind} {ids.max()} of the {part} part is out of range; there are "
                    f"{count} {kind}s, numbered from 0"
                )

    def _missing_items(self, modality: str, array: np.ndarray) -> np.ndarray:
        check_feature_shape(modality, array, self.num_items)
        known = np.asarray(self.missing.get(modality, ()), np.int64)
        if modality not in self.checked:
            known = np.concatenate([known, zero_rows(modality, array)])
        known = np.unique(known)
        if known.size and not 0 <= known[0] <= known[-1] < self.num_items:
            raise MmfastError(
                f"features '{modality}': missing items run from {known[0]} to {known[-1]} "
                f"but there are {self.num_items}"
            )
        return _read_only(known)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the features, sorted."""
        return tuple(sorted(self.features))

    def part(self, name: str) -> Interactions:
        """Return the part called train, valid or test."""
        if name not in PARTS:
            raise MmfastError(f"unknown part '{name}'.{suggest(name, PARTS)} Known: {', '.join(PARTS)}")
        return getattr(self, name)

    @cached_property
    def feature_hashes(self) -> Mapping[str, str]:
        """Modality -> sha256 of the feature as a `.npy` file."""
        known = self.known_hashes
        return MappingProxyType({m: known.get(m) or hash_array(self.features[m]) for m in self.modalities})

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the sizes, the pairs of each part and the feature hashes: equal data, equal fingerprint."""
        pairs = {part: [hash_array(self.part(part).users), hash_array(self.part(part).items)] for part in PARTS}
        return hash_json([self.num_users, self.num_items, pairs, dict(self.feature_hashes)])

    @cached_property
    def train_items(self) -> np.ndarray:
        """Sorted ids, int32, of the items that occur in train."""
        return _read_only(np.unique(self.train.items))

    @cached_property
    def cold_items(self) -> np.ndarray:
        """Sorted ids, int32, of the items without a train row."""
        cold = np.ones(self.num_items, bool)
        cold[self.train_items] = False
        return _read_only(np.flatnonzero(cold).astype(np.int32))

    @property
    def user_ids(self) -> pl.Series:
        """Original ids of all users by internal id, strings; read on first use."""
        return self.user_id_table.ids

    @property
    def item_ids(self) -> pl.Series:
        """Original ids of all items by internal id, strings; read on first use."""
        return self.item_id_table.ids

    def user_id(self, user: int) -> str:
        """Return the original id of a user."""
        return self.user_id_table.original(user)

    def item_id(self, item: int) -> str:
        """Return the original id of an item."""
        return self.item_id_table.original(item)

    def user_index(self, user_id: str) -> int:
        """Return the internal id of a user. Raises MmfastError for an unknown original id."""
        return int(self.user_id_table.indices([user_id])[0])

    def item_index(self, item_id: str) -> int:
        """Return the internal id of an item. Raises MmfastError for an unknown original id."""
        return int(self.item_id_table.indices([item_id])[0])

    def users_to_index(self, user_ids: Sequence[str]) -> np.ndarray:
        """Return internal user ids, int64 [n]. Raises MmfastError naming the first unknown original id."""
        return self.user_id_table.indices(user_ids)

    def items_to_index(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return internal item ids, int64 [n]. Raises MmfastError naming the first unknown original id."""
        return self.item_id_table.indices(item_ids)

    def item_table(self) -> pl.DataFrame:
        """Return the table of items by internal id: `id` and, where the data have them, title, text, image, ..."""
        return self.item_id_table.frame

    def item_title(self, item: int) -> str:
        """Return the title of an item, "" when unknown."""
        self.item_id_table.original(item)
        frame = self.item_table()
        return (frame["title"][int(item)] or "") if "title" in frame.columns else ""

    def with_features(self, features: Mapping[str, np.ndarray]) -> Dataset:
        """Return the same interactions with other features, checked and hashed anew."""
        return replace(self, features=features, missing={}, known_hashes={}, checked=frozenset())

    def __repr__(self) -> str:
        rows = " / ".join(f"{len(self.part(part)):,} {part}" for part in PARTS)
        features = ", ".join(f"{m} {self.features[m].shape[1]}" for m in self.modalities)
        return (
            f"Dataset '{self.name}': {self.num_users:,} users x {self.num_items:,} items, "
            f"interactions {rows}, {'features ' + features if features else 'no features'}"
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
