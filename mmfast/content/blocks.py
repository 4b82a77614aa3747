"""Different inputs in a fixed order, cut into blocks by their content: the entries of the store."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

Range = tuple[int, int]


@dataclass
class Blocks:
    """The different inputs in their fixed order, cut into blocks; `inverse` [I] is each item's input, -1 for none."""

    keys: list[str]
    inverse: np.ndarray

    @classmethod
    def of(cls, contents: Sequence[str | None]) -> Blocks:
        """Return the blocks of one input per item. Shorter inputs come first, so that texts need little padding."""
        keys = sorted({key for key in contents if key}, key=lambda key: (len(key), key))
        place = {key: at for at, key in enumerate(keys)}
        return cls(keys, np.array([place[key] if key else -1 for key in contents], np.int64))

    def ranges(self, size: int) -> list[Range]:
        """Return (start, stop) of every block, `size` inputs in the mean and at most twice as many.

        A block begins at an input whose hash says so: one input more or less changes the blocks round it alone.
        """
        starts = []
        for at, key in enumerate(self.keys):
            if not starts or at - starts[-1] == 2 * size or zlib.crc32(key.encode()) % size == 0:
                starts.append(at)
        return list(pairwise([*starts, len(self.keys)]))

    def items(self, start: int, stop: int) -> np.ndarray:
        """Return the items whose input lies in a block, sorted."""
        low, high = np.searchsorted(self.inverse, [start, stop], sorter=self._order)
        return np.sort(self._order[low:high])

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.inverse, kind="stable")
