"""Item graphs of a data set from its neighbour lists, which large catalogues keep on disk: K-MIX and K-COS."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmfast.errors import MmfastError
from mmfast.graph import Graph, cosine_neighbour_graph, mixed_neighbour_graph
from mmfast.neighbours import item_neighbours

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset

PAIR_BYTES = 64 << 20  # of the pairs of feature rows that are compared at a time


def mixing_weights(
    modalities: Sequence[str],
    image_weight: float,
    given: Mapping[str, float] | None = None,
    hide: Collection[str] = (),
) -> dict[str, float]:
    """Return the weight of each modality that is not hidden; they add up to 1.

    Images weigh `image_weight`, the others share the rest (all alike without images), unless weights are `given`.
    Raises MmfastError for given weights that do not fit the modalities.
    """
    shown = [m for m in modalities if m not in hide]
    if given is None:
        others = len([m for m in shown if m != "image"])
        image = image_weight if "image" in shown and others else 1.0
        given = {m: image if m == "image" else (1.0 - image) / others for m in shown}
        if "image" not in shown:
            given = dict.fromkeys(shown, 1.0)
    elif set(given) != set(modalities) or min(given.values()) < 0 or sum(given[m] for m in shown) <= 0:
        raise MmfastError(
            f"modality_weights is {given}; wanted a weight of 0 or more for each of {', '.join(modalities)}, not all 0"
        )
    total = sum(given[m] for m in shown)
    return {m: given[m] / total for m in shown}


def mean_graph(dataset: Dataset, weights: Mapping[str, float], k: int) -> Graph:
    """Return K-MIX: the weighted sum over modalities of the means over each item's k neighbours (K-BIN)."""
    return mixed_neighbour_graph({m: item_neighbours(dataset, m, k) for m in weights}, weights, dataset.num_items)


def cosine_graphs(dataset: Dataset, modalities: Sequence[str], k: int | Mapping[str, int]) -> dict[str, Graph]:
    """Return K-COS(k) by modality: neighbours weigh their cosine over the roots of both row sums."""
    counts = {m: k if isinstance(k, int) else k[m] for m in modalities}
    return {m: _cosine_graph(dataset, m, counts[m]) for m in modalities}


def _cosine_graph(dataset: Dataset, modality: str, k: int) -> Graph:
    ids = item_neighbours(dataset, modality, k)
    features, present = dataset.features[modality], ids >= 0
    rows, cols = np.repeat(np.arange(len(ids)), present.sum(1)), ids[present].astype(np.int64)
    values = np.empty(len(rows), np.float32)
    step = max(1, PAIR_BYTES // (8 * features.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        pair = [torch.from_numpy(np.asarray(features[which[part]], np.float32)) for which in (rows, cols)]
        values[part] = torch.nn.functional.cosine_similarity(*pair).numpy()
    cosines = np.zeros(ids.shape, np.float32)
    cosines[present] = values
    return cosine_neighbour_graph(ids, cosines, len(ids))
