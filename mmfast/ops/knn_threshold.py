"""knn_threshold: every pair of rows more similar than a threshold, counted before any is stored."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register
from mmfast.ops.knn_graph import BLOCK_BYTES, checked_features, knn_graph, similarity_matrix, similarity_type


def knn_threshold(
    features: Tensor | np.ndarray,
    eta: float,
    cap: int | None = None,
    max_edges: int | None = None,
    metric: str = "cosine",
    block_bytes: int = BLOCK_BYTES,
    precision: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ptr int64 [I + 1], neighbours int32 [E], similarities [E]): the other rows with similarity > eta.

    features, metric, block_bytes and precision are `knn_graph`'s, and so is the order of a row; a row is not its own
    neighbour. `cap` keeps at most that many of a row, the most similar; only a cap below I - 1 heeds `precision`.
    Without `cap`, or where it allows more than `max_edges` (None inside torch.compile), a first pass counts the edges.
    Raises MmfastError for eta NaN, on the meta device, and when there are more than `max_edges` edges. TargetMR Eq. 22.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]])
    >>> ptr, neighbours, _ = knn_threshold(features, eta=0.5)
    >>> ptr.tolist(), neighbours.tolist()
    ([0, 2, 4, 4, 6], [1, 3, 3, 0, 1, 0])
    >>> knn_threshold(features, eta=0.5, cap=1)[1].tolist()
    [1, 3, 1]
    """
    features = checked_features("knn_threshold", features, metric, block_bytes, precision)
    _check_eta("knn_threshold", eta)
    if features.is_meta:
        raise MmfastError("knn_threshold: the number of edges depends on the rows, which a meta tensor does not hold")
    _check_limits(cap, max_edges)
    whole = cap is None or cap >= features.shape[0] - 1
    if whole or (max_edges is not None and cap * features.shape[0] > max_edges):
        counts = knn_count(features, eta, metric, block_bytes)
        if max_edges is not None:
            _check_edges(int((counts if whole else counts.clamp(max=cap)).sum()), eta, max_edges)
        if whole:
            return _above(features, eta, counts, metric, block_bytes)
    ids, similarities = knn_graph(features, cap, False, metric, block_bytes, precision)
    kept = similarities.double() > eta
    return _offsets(kept.sum(1)), ids[kept], similarities[kept]


def knn_count(
    features: Tensor | np.ndarray, eta: float, metric: str = "cosine", block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Return how many other rows are more similar than eta to each row, int64 [I]; nothing else is kept.

    `knn_count(features, eta).clamp(max=cap).sum()` is the number of edges of `knn_threshold(features, eta, cap)`.

    >>> knn_count(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), eta=0.5).tolist()
    [1, 1, 0]
    """
    features = checked_features("knn_count", features, metric, block_bytes)
    _check_eta("knn_count", eta)
    if not native("knn_count", features):
        return _others_above(similarity_matrix("knn_count", features, metric), eta).sum(1)
    return call_native("knn_count", features, eta, metric, block_bytes)


def knn_above_reference(features: Tensor, eta: float, ptr: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Return (neighbours int32 [E], similarities [E]) of all other rows above eta, from the whole matrix."""
    similarity = similarity_matrix("knn_above", features, metric)
    order = similarity.masked_fill(~_others_above(similarity, eta), -torch.inf)
    ids = order.argsort(dim=1, descending=True, stable=True)  # stable: the lower id first among equals
    kept = torch.arange(len(ids), device=ids.device) < ptr.diff()[:, None]
    return ids[kept].int(), order.gather(1, ids)[kept]


def _above(features: Tensor, eta: float, counts: Tensor, metric: str, block_bytes: int) -> tuple[Tensor, ...]:
    ptr = _offsets(counts)
    if not native("knn_above", features):
        return ptr, *knn_above_reference(features, eta, ptr, metric)
    return ptr, *call_native("knn_above", features, eta, ptr, metric, block_bytes)


def _others_above(similarity: Tensor, eta: float) -> Tensor:
    return (similarity.double() > eta).fill_diagonal_(False)


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _check_eta(op: str, eta: float) -> None:
    if math.isnan(eta):
        raise MmfastError(f"{op}: eta is NaN, which no similarity is above or below; choose a number")


def _check_limits(cap: int | None, max_edges: int | None) -> None:
    check_whole("knn_threshold", cap=1 if cap is None else cap, max_edges=1 if max_edges is None else max_edges)
    if cap is not None and cap < 1:
        raise MmfastError(f"knn_threshold: cap={cap}; choose 1 or more neighbours, or None for all")


def _check_edges(num_edges: int, eta: float, max_edges: int) -> None:
    if num_edges > max_edges:
        raise MmfastError(
            f"knn_threshold: eta={eta} gives {num_edges} edges, more than max_edges={max_edges}; "
            "raise eta, set a lower cap, or allow more edges"
        )


def _fake_count(features: Tensor, eta: float, metric: str, block_bytes: int) -> Tensor:
    return features.new_empty(features.shape[0], dtype=torch.int64)


def _fake_above(features: Tensor, eta: float, ptr: Tensor, metric: str, block_bytes: int) -> tuple[Tensor, Tensor]:
    num_edges = torch.library.get_ctx().new_dynamic_size()  # the last number of ptr
    ids = features.new_empty(num_edges, dtype=torch.int32)
    return ids, features.new_empty(num_edges, dtype=similarity_type(features))


register("knn_count", _fake_count)
register("knn_above", _fake_above)
