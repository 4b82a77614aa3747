"""Nearest items by features: the neighbour lists of item graphs, cached by the content they come from."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmfast.data.hashing import row_blocks
from mmfast.data.storage import save_npy
from mmfast.errors import MmfastError
from mmfast.models.features import tensor_view
from mmfast.ops import knn_graph

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset

FORMAT = 2  # raised whenever the lists would come out otherwise for the same input
CACHE_ABOVE = 10_000  # items; smaller catalogues are recomputed faster than a cache is worth


def item_neighbours(dataset: Dataset, modality: str, k: int) -> np.ndarray:
    """Return the k most similar items of every item by cosine, itself first, int32 [I, k].

    An item whose feature row is all zero has no direction: its row is itself and then -1, and it is in no other row.
    Where fewer than k rows are left, the lists end in -1 too. Features are read in blocks, never copied whole.
    Lists of large catalogues are kept under the cache folder, keyed by the hash of the features and k. A damaged file
    there, or one that cannot be written, is a warning: the lists are computed anew.
    Raises MmfastError when all rows are zero, and what `knn_graph` raises.

    >>> item_neighbours(dataset, "image", k=10)  # doctest: +SKIP
    """
    features = dataset.features[modality]
    if dataset.num_items < CACHE_ABOVE:
        return _compute(modality, features, k)
    key = hashlib.sha256(f"{FORMAT} cosine {dataset.feature_hashes[modality]} {k}".encode()).hexdigest()[:32]
    folder = Path(os.environ.get("MMFAST_CACHE") or "~/.cache/mmfast").expanduser() / "neighbours"
    path = folder / f"{key}.npy"
    ids = _read(path, dataset.num_items, k) if path.is_file() else None
    if ids is None:
        ids = _compute(modality, features, k)
        _store(path, ids)
    return ids


def _compute(modality: str, features: np.ndarray, k: int) -> np.ndarray:
    if not any(features[start:stop].any() for start, stop in row_blocks(features)):
        raise MmfastError(
            f"features '{modality}': all {len(features)} rows are zero, so no item is like another; "
            "give features with content, or leave this modality out (data.features)"
        )
    return knn_graph(tensor_view(features), k)[0].numpy()


def _read(path: Path, num_items: int, k: int) -> np.ndarray | None:
    """Return the lists in a cache file, or None after a warning where they cannot be what was written."""
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        problem = str(error)
    else:
        if ids.shape != (num_items, k) or ids.dtype != np.int32:
            problem = f"it holds {ids.dtype} {list(ids.shape)}, not int32 [{num_items}, {k}]"
        elif ids.min() < -1 or ids.max() >= num_items or not np.array_equal(ids[:, 0], np.arange(num_items)):
            problem = "it does not list every item first among its own neighbours, or lists items that do not exist"
        else:
            return ids
    warnings.warn(f"the neighbour lists in '{path}' are damaged and computed anew: {problem}", stacklevel=3)
    return None


def _store(path: Path, ids: np.ndarray) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_npy(part, ids)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        warnings.warn(
            f"cannot write '{path}': {error}; neighbour lists are computed again each time. Free space on that disk, "
            "or set MMFAST_CACHE to another folder",
            stacklevel=3,
        )
