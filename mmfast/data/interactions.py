"""One part (train, valid or test) of a data set: its (user, item) pairs, sorted and without repeats."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmfast.errors import MmfastError


@dataclass(frozen=True, eq=False)
class Interactions:
    """Pairs sorted by user, then item, none twice; both arrays are int32 [E] and read-only."""

    users: np.ndarray
    items: np.ndarray
    _by_user: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        users, items = _as_ids("users", self.users), _as_ids("items", self.items)
        if len(users) != len(items):
            raise MmfastError(f"interactions: {len(users)} users but {len(items)} items; give one item per user")
        _check_order(users, items)
        object.__setattr__(self, "users", users)
        object.__setattr__(self, "items", items)

    @classmethod
    def from_pairs(cls, users: np.ndarray, items: np.ndarray) -> Interactions:
        """Return the part made of pairs in any order. Raises MmfastError when a pair is repeated."""
        users, items = np.asarray(users), np.asarray(items)
        if users.shape != items.shape:
            raise MmfastError(f"interactions: {users.shape} users but {items.shape} items; give one item per user")
        order = np.lexsort((items, users))
        return cls(users[order], items[order])

    def __len__(self) -> int:
        return len(self.users)

    def by_user(self, num_users: int) -> tuple[np.ndarray, np.ndarray]:
        """Return CSR rows per user: offsets int64 [U+1] and items int32 [E], sorted within a user; cached."""
        if num_users not in self._by_user:
            offsets = np.zeros(num_users + 1, np.int64)
            np.cumsum(np.bincount(self.users, minlength=num_users), out=offsets[1:])
            offsets.flags.writeable = False
            self._by_user[num_users] = (offsets, self.items)
        return self._by_user[num_users]


def _as_ids(what: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise MmfastError(f"interactions: {what} have shape {values.shape} and type {values.dtype}; want integers [E]")
    if values.size and (int(values.min()) < 0 or int(values.max()) >= 2**31):
        raise MmfastError(
            f"interactions: {what} run from {values.min()} to {values.max()}; want ids from 0 to {2**31 - 1}"
        )
    values = np.ascontiguousarray(values, np.int32).view()
    values.flags.writeable = False
    return values


def _check_order(users: np.ndarray, items: np.ndarray) -> None:
    same_user = users[1:] == users[:-1]
    wrong = (users[1:] < users[:-1]) | (same_user & (items[1:] <= items[:-1]))
    if not wrong.any():
        return
    at = int(wrong.argmax()) + 1
    if same_user[at - 1] and items[at] == items[at - 1]:
        repeated = int((same_user & (items[1:] == items[:-1])).sum())
        raise MmfastError(
            f"interactions: the pair (user {users[at]}, item {items[at]}) is repeated, {repeated} repeats in all; "
            "keep each pair once"
        )
    raise MmfastError(
        f"interactions: row {at} (user {users[at]}, item {items[at]}) is out of order; "
        "sort by user, then item, or use Interactions.from_pairs"
    )
