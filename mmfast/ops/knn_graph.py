"""knn_graph: the k most similar rows of every row, exactly, without the square similarity matrix."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops._backend import native, register

METRICS = ("cosine", "inner")


def knn_graph(
    features: Tensor | np.ndarray,
    k: int,
    include_self: bool = True,
    metric: str = "cosine",
    block_bytes: int = 64 << 20,
) -> tuple[Tensor, Tensor]:
    """Return (neighbours int32 [I, k], similarities [I, k]): most similar first, the lower id first among equals.

    features: [I, F], float32, float16 or float64, a tensor or a NumPy array (memory-mapped too: it is read in blocks).
    include_self: the row itself is its own first neighbour, also an all-zero row, whose similarities are all 0.
    metric: "cosine", of rows divided by max(length, 1e-12), or "inner". Similarities are float32 (float64 for
    float64). The work space beyond the result is about `block_bytes`. The bits do not depend on the threads.
    Raises MmfastError for k above the number of rows to choose from, and for NaN or infinity in a row.

    >>> neighbours, similarities = knn_graph(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), k=2)
    >>> neighbours.tolist(), similarities.tolist()
    ([[0, 1], [1, 0], [2, 0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    """
    features = _tensor(features)
    most = max(features.shape[0] - (not include_self), 0)
    if not 1 <= k <= most:
        there = f"there are only {features.shape[0]} items" if k > most else "every item needs a neighbour"
        raise MmfastError(f"knn_graph: k={k} but {there}; choose {'1 <= ' if k < 1 else ''}k <= {most}")
    if metric not in METRICS:
        raise MmfastError(f"knn_graph: metric='{metric}' is unknown; choose {' or '.join(METRICS)}")
    if not native("knn_graph", features):
        return knn_graph_reference(features, k, include_self, metric)
    try:
        return torch.ops.mmfast.knn_graph(features.detach(), k, include_self, metric, block_bytes)
    except ValueError as error:
        raise MmfastError(str(error)) from None


def knn_graph_reference(
    features: Tensor, k: int, include_self: bool = True, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Return what `knn_graph` returns up to rounding, from the whole similarity matrix."""
    x = features.detach().to(torch.float64 if features.dtype == torch.float64 else torch.float32)
    bad = torch.nonzero(~torch.isfinite(x).all(1))
    if len(bad):
        raise MmfastError(
            f"knn_graph: row {bad[0].item()} of features holds NaN, infinity or numbers too large to multiply; "
            "repair that row"
        )
    if metric == "cosine":
        x = torch.nn.functional.normalize(x, eps=1e-12)
    similarity = x @ x.T
    order = similarity.clone()
    order.fill_diagonal_(torch.inf if include_self else -torch.inf)
    neighbours = order.argsort(dim=1, descending=True, stable=True)[:, :k]  # stable: the lower id first among equals
    return neighbours.int(), similarity.gather(1, neighbours)


def _tensor(features: Tensor | np.ndarray) -> Tensor:
    if isinstance(features, np.ndarray):
        with warnings.catch_warnings():  # torch warns that the array is read-only; nothing here writes to it
            warnings.simplefilter("ignore", UserWarning)
            features = torch.from_numpy(features)
    if features.dim() != 2 or features.dtype not in (torch.float16, torch.float32, torch.float64):
        raise MmfastError(
            f"knn_graph: features has shape {tuple(features.shape)} and type {features.dtype}; "
            "wanted [items, width] in float16, float32 or float64"
        )
    return features


def _fake(features: Tensor, k: int, include_self: bool, metric: str, block_bytes: int) -> tuple[Tensor, Tensor]:
    real = torch.float64 if features.dtype == torch.float64 else torch.float32
    shape = (features.shape[0], k)
    return features.new_empty(shape, dtype=torch.int32), features.new_empty(shape, dtype=real)


register("knn_graph", _fake)
