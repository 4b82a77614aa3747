"""Checks of a feature matrix, in blocks of rows so that a memory-mapped file is never loaded whole."""

from __future__ import annotations

import numpy as np

from mmfast.data.hashing import row_blocks
from mmfast.errors import MmfastError

FEATURE_TYPES = (np.dtype(np.float32), np.dtype(np.float16))


def check_feature_shape(modality: str, array: np.ndarray, num_items: int) -> None:
    """Raise MmfastError unless `array` is [num_items, F] with F >= 1 and of float32 or float16."""
    if array.ndim != 2 or array.shape[1] == 0:
        raise MmfastError(f"features '{modality}' have shape {array.shape}; want one row of numbers per item [I, F]")
    if array.shape[0] != num_items:
        raise MmfastError(
            f"features '{modality}' have {array.shape[0]} rows but there are {num_items} items; "
            "row r must belong to item r, one row for every item"
        )
    if array.dtype not in FEATURE_TYPES:
        raise MmfastError(f"features '{modality}' are {array.dtype}; save them as float32 or float16")


def zero_rows(modality: str, array: np.ndarray, source_rows: np.ndarray | None = None) -> np.ndarray:
    """Return the sorted int64 ids of rows that are all zero; `source_rows` [I] are the row numbers to name in errors.

    Raises MmfastError with the first bad row and their number when a row has a NaN or an infinite value.
    """
    zeros: list[np.ndarray] = []
    bad_rows, first_bad = 0, -1
    for start, stop in row_blocks(array):
        block = array[start:stop]
        # A block sum would miss nothing but can overflow float16; isfinite on the values themselves cannot.
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            first_bad = start + int(bad.argmax()) if first_bad < 0 else first_bad
            bad_rows += int(bad.sum())
        zeros.append(start + np.flatnonzero(~block.any(axis=1)))
    if bad_rows:
        first_bad = first_bad if source_rows is None else int(source_rows[first_bad])
        raise MmfastError(
            f"features '{modality}' have NaN or infinite values in {bad_rows} of {len(array)} rows, first in row "
            f"{first_bad}; replace them, or write an all-zero row for an item without a feature"
        )
    return np.concatenate(zeros).astype(np.int64) if zeros else np.zeros(0, np.int64)
