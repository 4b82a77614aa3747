"""The extended interaction graph (Eq. 22): users meet items similar to theirs, in messages alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops.knn_threshold import knn_count, knn_threshold

PAIRS_AT_ONCE = 1 << 22  # candidate pairs that are sorted at a time
MOST_EDGES = 20  # times the training rows, beyond which a graph is refused


def similar_items(features: Tensor, eta: float, topk: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return (ptr int64 [I + 1], items int32 [E]) of the other items with cosine > eta, at most topk of each."""
    ptr, ids, _ = knn_threshold(features.detach(), eta, topk)
    return ptr.cpu().numpy(), ids.cpu().numpy()


def candidate_edges(items: np.ndarray, counts: np.ndarray) -> int:
    """Return the most edges that Eq. 22 can give: every training pair and each item similar to the pair's."""
    return len(items) + int(counts[items].sum())


def extended_pairs(
    users: np.ndarray, items: np.ndarray, num_items: int, ptr: np.ndarray, similar: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return Eq. 22's pairs (users, items) int32 [E'], sorted, each once, training pairs among them.

    users, items: the training pairs, sorted by user; ptr, similar: each item's similar ones. A sparse product by blocks
    of users: nothing of size users x items is made.

    >>> ptr, near = np.array([0, 1, 1, 1]), np.array([2])
    >>> [part.tolist() for part in extended_pairs(np.array([0, 1]), np.array([0, 1]), 3, ptr, near)]
    [[0, 0, 1], [0, 2, 1]]
    """
    counts = np.diff(ptr)[items]
    ends = np.cumsum(counts + 1)
    found, start = [np.zeros(0, np.int64)], 0
    while start < len(users):
        reach = (ends[start - 1] if start else 0) + PAIRS_AT_ONCE
        stop = max(start + 1, int(np.searchsorted(ends, reach)))
        # A user's pairs stay in one block, so that blocks need no second pass against doubles.
        stop = int(np.searchsorted(users, users[stop - 1], side="right"))
        found.append(_block(users[start:stop], items[start:stop], counts[start:stop], num_items, ptr, similar))
        start = stop
    keys = np.concatenate(found)
    return (keys // num_items).astype(np.int32), (keys % num_items).astype(np.int32)


def _block(
    users: np.ndarray, items: np.ndarray, counts: np.ndarray, num_items: int, ptr: np.ndarray, similar: np.ndarray
) -> np.ndarray:
    """Return the sorted keys user * I + item of some users' training pairs and of the items similar to them."""
    own = users.astype(np.int64) * num_items
    first = np.cumsum(counts) - counts
    places = np.arange(int(counts.sum())) + np.repeat(ptr[items] - first, counts)
    return np.unique(np.concatenate([own + items, np.repeat(own, counts) + similar[places]]))


def extend(
    features: Tensor,
    users: np.ndarray,
    items: np.ndarray,
    eta: float,
    topk: int | None,
    max_edges: int | None,
    tell: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Return Eq. 22's pairs for x_com [I, 2D] and the training pairs; `tell` hears the count before they are built.

    topk keeps at most that many similar items of each; None is the rule as printed. Raises MmfastError when the graph
    may have more than max_edges edges (None: 20 times the training rows); nothing of that size is made then.
    """
    features = features.detach()
    near = None if topk is None else similar_items(features, eta, topk)
    counts = knn_count(features, eta).cpu().numpy() if near is None else np.diff(near[0])
    edges, most = candidate_edges(items, counts), MOST_EDGES * len(items) if max_edges is None else max_edges
    bounds = f"eta={eta} and topk={topk}" if topk is not None else f"eta={eta} without topk"
    tell(f"extended graph: {bounds} give at most {edges:,} edges to {len(items):,} training rows")
    if edges > most:
        raise MmfastError(
            f"targetmr: {bounds} give up to {edges:,} edges to {len(items):,} training rows, more than "
            f"max_edges={most:,}; raise eta, set a smaller topk, or allow more with max_edges"
        )
    return extended_pairs(users, items, len(features), *(near or similar_items(features, eta, None)))


def common_features(parts: list[Tensor]) -> Tensor:
    """Return x_com = x_txt + x_img [I, 2D], of one modality that alone (Eq. 22)."""
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
