"""Masks as run lengths, in the order of COCO's uncompressed RLE: column by column, the first run being of False."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfast.errors import MmfastError


def encode_runs(mask: np.ndarray) -> np.ndarray:
    """Return the run lengths uint32 [R] of a mask bool [H, W]; the first may be 0, no other is.

    >>> encode_runs(np.array([[0, 1], [1, 1]], bool)).tolist()
    [1, 3]
    """
    if mask.ndim != 2:
        raise MmfastError(f"encode_runs: got a mask of shape {list(mask.shape)}; want [H, W]")
    flat = np.asarray(mask, bool).ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    opening = [0, 0] if flat[:1].any() else [0]
    return np.diff(np.concatenate([opening, turns, [flat.size]])).astype(np.uint32)


def decode_runs(runs: np.ndarray | Sequence[int], size: tuple[int, int] | np.ndarray) -> np.ndarray:
    """Return the mask bool [H, W] of run lengths; `size` is (H, W). Raises MmfastError when they do not fill it.

    >>> decode_runs([1, 3], (2, 2)).tolist()
    [[False, True], [True, True]]
    """
    lengths = np.asarray(runs, np.int64)
    height, width = (int(side) for side in size)
    if lengths.sum() != height * width or (lengths < 0).any():
        raise MmfastError(f"mask: the runs cover {lengths.sum()} pixels, not {height} x {width} = {height * width}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape((height, width), order="F")


def runs_area(runs: np.ndarray | Sequence[int]) -> int:
    """Return the number of True pixels.

    >>> runs_area([1, 3])
    3
    """
    return int(np.asarray(runs, np.int64)[1::2].sum())
