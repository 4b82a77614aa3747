"""Nearest items by features: the neighbour lists of item graphs, cached by the content they come from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmfast.errors import MmfastError
from mmfast.models.features import tensor_view
from mmfast.ops import knn_graph

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset

FORMAT = 1  # raised whenever the lists would come out otherwise for the same input
CACHE_ABOVE = 10_000  # items; smaller catalogues are recomputed faster than a cache is worth


def item_neighbours(dataset: Dataset, modality: str, k: int) -> np.ndarray:
    """Return the k most similar items of every item by cosine, itself first, int32 [I, k].

    An item whose feature row is all zero has no direction: its row is itself and then -1, and it is in no other row.
    Where fewer than k rows are left, the lists end in -1 too.
    Lists of large catalogues are kept under the cache folder, keyed by the hash of the features and k.
    """
    if dataset.num_items < CACHE_ABOVE:
        return _compute(modality, dataset.features[modality], k)
    key = hashlib.sha256(f"{FORMAT} cosine {dataset.feature_hashes[modality]} {k}".encode()).hexdigest()[:32]
    folder = Path(os.environ.get("MMFAST_CACHE") or "~/.cache/mmfast").expanduser() / "neighbours"
    path = folder / f"{key}.npy"
    if path.is_file():
        return np.load(path)
    ids = _compute(modality, dataset.features[modality], k)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{key}.{os.getpid()}.part"
    with open(part, "wb") as file:
        np.save(file, ids)
    os.replace(part, path)
    return ids


def _compute(modality: str, features: np.ndarray, k: int) -> np.ndarray:
    rows = np.flatnonzero(_rows_with_content(features))
    if len(rows) == len(features):
        return knn_graph(tensor_view(features), k)[0].numpy()
    if not len(rows):
        raise MmfastError(
            f"features '{modality}': all {len(features)} rows are zero, so no item is like another; "
            "give features with content, or leave this modality out (data.features)"
        )
    ids = np.full((len(features), k), -1, dtype=np.int32)
    ids[:, 0] = np.arange(len(features))
    usable = min(k, len(rows))
    ids[rows, :usable] = rows[knn_graph(tensor_view(features[rows]), usable)[0].numpy()]
    return ids


def _rows_with_content(features: np.ndarray, block: int = 4096) -> np.ndarray:
    blocks = [np.any(features[start : start + block] != 0, axis=1) for start in range(0, len(features), block)]
    return np.concatenate(blocks)
