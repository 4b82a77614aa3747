"""The table of original ids of users or items: read when first asked, looked up in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import polars as pl

from mmfast.errors import MmfastError, suggest

SUGGESTION_POOL = 20_000


class IdTable:
    """Row r describes user or item r: column `id` (the original id, a string) and any others.

    `read` returns the table and is called at most once; without it the ids are the row numbers as strings.
    """

    def __init__(self, kind: str, count: int, read: Callable[[], pl.DataFrame] | None = None) -> None:
        self.kind = kind
        self.count = count
        self._read = read

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The table, `count` rows. Raises MmfastError when rows or ids do not fit."""
        if self._read is None:
            return pl.DataFrame({"id": pl.Series(range(self.count), dtype=pl.Int64).cast(pl.String)})
        frame = self._read().with_columns(pl.col("id").cast(pl.String))
        if frame.height != self.count:
            raise MmfastError(f"the table of {self.kind}s has {frame.height} rows but there are {self.count}")
        check_unique(self.kind, frame["id"])
        return frame

    @property
    def ids(self) -> pl.Series:
        """Original ids by row, strings."""
        return self.frame["id"]

    def original(self, index: int) -> str:
        """Return the original id of one row. Raises MmfastError for a row out of range."""
        if not 0 <= index < self.count:
            raise MmfastError(f"{self.kind} {index} is out of range; there are {self.count}, numbered from 0")
        return str(self.ids[int(index)])

    def indices(self, ids: Sequence[str]) -> np.ndarray:
        """Return the rows, int64 [n], of original ids. Raises MmfastError for a text and for an unknown id."""
        if isinstance(ids, str):
            raise MmfastError(f"{self.kind} ids: got the text '{ids}'; give a list, such as ['{ids}']")
        wanted = pl.DataFrame({"id": pl.Series([str(i) for i in ids], dtype=pl.String)})
        found = wanted.join(self._index, on="id", how="left", maintain_order="left")["row"]
        if found.null_count():
            unknown = wanted["id"].filter(found.is_null())
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise MmfastError(
                f"unknown {self.kind} id '{unknown[0]}'{more}: none of the {self.count} {self.kind}s of the data "
                f"has it.{self._suggest(unknown[0]) or self._example}"
            )
        return found.to_numpy().astype(np.int64)

    @cached_property
    def _index(self) -> pl.DataFrame:
        return self.frame.select("id", row=pl.int_range(pl.len(), dtype=pl.Int64))

    @property
    def _example(self) -> str:
        return f" The first one is '{self.ids[0]}'" if self.count else ""

    def _suggest(self, unknown: str) -> str:
        # Comparing with millions of ids takes minutes; near misses share their first letters and length.
        near = self.ids.str.len_chars().is_between(len(unknown) - 1, len(unknown) + 1)
        pool = self.ids.filter(near & self.ids.str.starts_with(unknown[:2]))
        return suggest(unknown, pool.head(SUGGESTION_POOL))


def check_unique(kind: str, ids: pl.Series) -> None:
    """Raise MmfastError naming an id that is missing or stands twice."""
    if ids.null_count():
        raise MmfastError(f"the table of {kind}s has {ids.null_count()} rows without an id; give every row its own")
    if ids.n_unique() != len(ids):
        repeated = ids.filter(ids.is_duplicated())
        raise MmfastError(
            f"{kind} id '{repeated[0]}' stands for {int((ids == repeated[0]).sum())} {kind}s "
            f"({repeated.n_unique()} such ids in all); every {kind} needs its own id"
        )
