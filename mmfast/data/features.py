"""Checks of a feature matrix, in blocks of rows so that a memory-mapped file is never loaded whole."""

from __future__ import annotations

import re

import numpy as np

from mmfast.data.hashing import row_blocks
from mmfast.errors import MmfastError

MODALITY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
LARGEST = np.float32(1e18)  # beyond it the square of a float32 is no longer finite
REPLACE = "replace them, or write an all-zero row for an item without a feature"
FEATURE_TYPES = (np.dtype(np.float32), np.dtype(np.float16))


def check_modality(modality: str, given_by: str = "") -> None:
    """Raise MmfastError unless a modality's name can be a key and part of a file name; `given_by` is the file's name.

    >>> check_modality("text-large")
    """
    if MODALITY.fullmatch(modality):
        return
    where = f" (from the file '{given_by}')" if given_by else ""
    what = "rename the file" if given_by else "choose another name"
    file = given_by or "FILE.npy"
    raise MmfastError(
        f"modality '{modality}'{where}: want a letter, then letters, digits, _ and -; {what}, or name the modality "
        f'yourself with data.features={{"NAME": "{file}"}}'
    )


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


def zero_rows(
    modality: str, array: np.ndarray, source_rows: np.ndarray | None = None, advice: str = REPLACE
) -> np.ndarray:
    """Return the sorted int64 ids of rows that are all zero; `source_rows` [I] are the row numbers to name in errors,
    advice what to do.

    Raises MmfastError with the first bad row, its value and their number when a row has a NaN, an infinite value or one
    beyond 1e18, which would become infinite in training.
    """
    zeros: list[np.ndarray] = []
    bad_rows, first_bad, value = 0, -1, 0.0
    for start, stop in row_blocks(array):
        block = array[start:stop]
        # The limit is a float32, so float16 is compared in float32; a NaN is not below it either.
        fine = np.abs(block) <= LARGEST
        bad = ~fine.all(axis=1)
        if bad.any():
            if first_bad < 0:
                first_bad = start + int(bad.argmax())
                value = float(block[bad.argmax()][~fine[bad.argmax()]][0])
            bad_rows += int(bad.sum())
        zeros.append(start + np.flatnonzero(~block.any(axis=1)))
    if bad_rows:
        first_bad = first_bad if source_rows is None else int(source_rows[first_bad])
        raise MmfastError(
            f"features '{modality}' have NaN or infinite values in {bad_rows} of {len(array)} rows, first in row "
            f"{first_bad} ({value:g}; beyond {LARGEST:.0e} counts as infinite); {advice}"
        )
    return np.concatenate(zeros).astype(np.int64) if zeros else np.zeros(0, np.int64)
