"""The form between a reader and a prepared folder: coded interactions, original ids, and sources of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.lib.format import MAGIC_PREFIX

from mmfast.data.features import check_feature_shape, zero_rows
from mmfast.data.hashing import row_blocks
from mmfast.data.storage import new_matrix
from mmfast.errors import MmfastError

ItemDetails = Callable[[pl.Series], pl.DataFrame]


class FeatureSource(Protocol):
    """Where a modality's rows come from; `encoder` names what made them ("unknown" is allowed)."""

    encoder: str
    origin: str

    def write(self, path: Path, modality: str, codes: np.ndarray, ids: pl.Series) -> np.ndarray:
        """Write [I, F] for the items `codes` (original `ids`) as `.npy`; return positions without a feature."""


@dataclass
class RawData:
    """What a reader returns.

    rows: `user`, `item` (int32 codes), optional `time` (int64) and `split` (int8 labels), in the order of the file.
    user_ids, item_ids: original id of every code. `kept_users`/`kept_items`: the codes are the data's own numbers
    and must survive, with rows or without. `details(ids)` returns one row per item id: title, text, image, ...
    """

    name: str
    rows: pl.DataFrame
    user_ids: pl.Series
    item_ids: pl.Series
    kept_users: bool = False
    kept_items: bool = False
    time_kind: str | None = None
    details: ItemDetails | None = None
    features: dict[str, FeatureSource] = field(default_factory=dict)
    incomplete_rows: int = 0


@dataclass
class MatrixFile:
    """A `.npy` matrix; `row_of_item` gives the row of each item code, None means row = code."""

    path: Path
    num_items: int
    row_of_item: np.ndarray | None = None
    encoder: str = "unknown"
    missing: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def origin(self) -> str:
        """Name of the source file."""
        return self.path.name

    def write(self, path: Path, modality: str, codes: np.ndarray, ids: pl.Series) -> np.ndarray:
        """Copy the rows of `codes` in blocks; return positions of all-zero rows and of recorded missing items."""
        source = open_matrix(self.path)
        rows = np.asarray(codes) if self.row_of_item is None else self.row_of_item[codes]
        wanted = self.num_items if self.row_of_item is None else len(source)
        # Other number types are converted when written; the check is about the shape alone.
        check_feature_shape(self._called(modality), np.broadcast_to(np.float32(0), source.shape), wanted)
        dtype = source.dtype if source.dtype == np.float16 else np.dtype(np.float32)
        target = new_matrix(path, dtype, (len(rows), source.shape[1]))
        # A double beyond float32 becomes infinite and is refused below with its row.
        with np.errstate(over="ignore"):
            for start, stop in row_blocks(target):
                target[start:stop] = source[rows[start:stop]]
        target.flush()
        recorded = np.flatnonzero(np.isin(codes, self.missing))
        return np.union1d(zero_rows(self._called(modality), target, rows), recorded).astype(np.int64)

    def _called(self, modality: str) -> str:
        return f"{modality}' of '{self.path.name}"


def open_matrix(path: Path) -> np.ndarray:
    """Memory-map a `.npy` file. Raises MmfastError when it is missing, cut short or not a plain array of numbers."""
    try:
        with path.open("rb") as file:
            known = file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
        array = np.load(path, mmap_mode="r", allow_pickle=False) if known else None
    except FileNotFoundError:
        raise MmfastError(f"feature file '{path}' does not exist") from None
    except (ValueError, EOFError, OSError) as error:
        if "Python objects" in str(error):
            raise MmfastError(f"feature file '{path}' holds Python objects; want numbers, float32 or float16") from None
        raise MmfastError(f"feature file '{path}' cannot be read as .npy ({error}); copy or compute it again") from None
    if array is None:
        raise MmfastError(
            f"feature file '{path}' cannot be read as .npy: it does not begin as such files do; write a matrix of "
            "numbers with numpy.save (an image_features_*.b goes beside the ratings of its category)"
        )
    if array.dtype.kind not in "fiu":
        raise MmfastError(f"feature file '{path}' holds {array.dtype}; want numbers, float32 or float16")
    return array
