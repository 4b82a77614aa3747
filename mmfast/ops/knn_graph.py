"""knn_graph: the k most similar rows of every row, exactly, without the square similarity matrix."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register

METRICS = ("cosine", "inner")
PRECISIONS = ("auto", "float32", "bfloat16")
BLOCK_BYTES = 128 << 20


def knn_graph(
    features: Tensor | np.ndarray,
    k: int,
    include_self: bool = True,
    metric: str = "cosine",
    block_bytes: int = BLOCK_BYTES,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return (neighbours int32 [I, k], similarities [I, k]): most similar first, the lower id first among equals.

    What decides is one number of a pair of rows: the sum of their products in float64, in one order, rounded to the
    type of the similarities. So equal rows are equally similar to any other, and the result does not depend on
    `block_bytes`, `precision`, the threads, or whether `knn_update` made it. Products by matrix only rule pairs out,
    by their proven error; of the rest no more than a list is kept, so repeated rows cost time (every pair of them is
    decided) and no memory.

    features: [I, F], float32, float16, bfloat16 or float64, a tensor or a NumPy array (memory-mapped too: it is read in
    blocks).
    include_self: the row itself is its own first neighbour.
    metric: "cosine", of rows divided by max(length, 1e-12), or "inner". Similarities are float32 (float64 for
    float64). By cosine an all-zero row has no direction: it has no neighbour but itself (similarity 0) and is nobody
    else's. Where fewer than k rows are left a list ends in -1, with similarity -inf.
    precision: of the products that rule pairs out. "bfloat16" keeps proposals and searches a row again in float32 where
    they are too few for the proof; "float32" does without; "auto" proposes where the device has units for it.
    block_bytes: the work space beyond the result, about. Proposals take more: on a CPU 8 (5 k + 64) bytes a row, on
    CUDA a bfloat16 copy of two blocks of rows and a block of scores in bfloat16, at most as much again.
    Raises MmfastError for k above the number of rows to choose from, for NaN, infinity or (inner) a squared length
    above a quarter of the type's largest number in a row, and for an array that torch cannot read.

    >>> neighbours, similarities = knn_graph(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), k=2)
    >>> neighbours.tolist(), similarities.tolist()
    ([[0, 1], [1, 0], [2, 0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    """
    features = checked_features("knn_graph", features, metric, block_bytes, precision)
    _check_k("knn_graph", k, features.shape[0], include_self)
    if not native("knn_graph", features):
        return knn_graph_reference(features, k, include_self, metric)
    return call_native("knn_graph", features, k, include_self, metric, block_bytes, precision)


def knn_graph_reference(
    features: Tensor, k: int, include_self: bool = True, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Return what `knn_graph` returns up to rounding, from the whole similarity matrix."""
    return _best(similarity_matrix("knn_graph", features, metric), k, include_self)


def knn_update(
    features: Tensor | np.ndarray,
    neighbours: Tensor,
    similarities: Tensor,
    include_self: bool = True,
    metric: str = "cosine",
    block_bytes: int = BLOCK_BYTES,
) -> tuple[Tensor, Tensor]:
    """Return the lists of all rows of `features` [I, F], given those of its first rows: (neighbours, similarities).

    neighbours int32 [O, k] and similarities [O, k] are `knn_graph`'s of the first O rows, by the same metric and
    include_self. Only products with the I - O new rows are made; an old list changes where a new row belongs in it. The
    result has the bits of `knn_graph`'s of all rows.
    Raises MmfastError for lists that are not of the first rows, and otherwise as `knn_graph`.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]])
    >>> knn_update(features, *knn_graph(features[:2], k=2))[0].tolist()
    [[0, 2], [1, 2], [2, 0]]
    """
    features = checked_features("knn_update", features, metric, block_bytes)
    if neighbours.dim() != 2 or neighbours.shape != similarities.shape:
        raise MmfastError(
            f"knn_update: neighbours has shape {tuple(neighbours.shape)} and similarities {tuple(similarities.shape)}; "
            "wanted [old rows, k] twice"
        )
    _check_k("knn_update", neighbours.shape[1], features.shape[0], include_self)
    if not native("knn_update", features):
        return knn_update_reference(features, neighbours, similarities, include_self, metric)
    return call_native("knn_update", features, neighbours, similarities, include_self, metric, block_bytes)


def knn_update_reference(
    features: Tensor, neighbours: Tensor, similarities: Tensor, include_self: bool = True, metric: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Return what `knn_update` returns up to rounding, from the whole similarity matrix."""
    similarity = similarity_matrix("knn_update", features, metric)
    old = neighbours.shape[0]
    known = similarity.new_full((old, old + 1), -torch.inf)  # -1 goes to the last column
    known.scatter_(1, neighbours.long().remainder(old + 1), similarities)
    known.diagonal().copy_(similarity.diagonal()[:old])
    similarity[:old, :old] = known[:, :old]
    return _best(similarity, neighbours.shape[1], include_self)


def similarity_matrix(op: str, features: Tensor, metric: str) -> Tensor:
    """Return all similarities [I, I]; by cosine -inf beside all-zero rows, except 0 with themselves."""
    x = features.to(torch.float64 if features.dtype == torch.float64 else torch.float32)
    bad = torch.nonzero(~torch.isfinite(x).all(1))
    if len(bad):
        raise MmfastError(
            f"{op}: row {bad[0].item()} of features holds NaN, infinity or numbers too large to multiply; "
            "repair that row"
        )
    if metric == "inner":
        return x @ x.T
    zero = (x == 0).all(1)
    x = torch.nn.functional.normalize(x, eps=1e-12)
    apart = (zero[:, None] | zero).fill_diagonal_(False)
    return (x @ x.T).masked_fill_(apart, -torch.inf)


def checked_features(
    op: str, features: Tensor | np.ndarray, metric: str, block_bytes: int, precision: str = "auto"
) -> Tensor:
    """Return the features as a tensor without gradient; raises MmfastError for what no op of this family takes."""
    if isinstance(features, np.ndarray):
        with warnings.catch_warnings():  # torch warns that the array is read-only; nothing here writes to it
            warnings.simplefilter("ignore", UserWarning)
            features = _tensor_of(op, features)
    if not isinstance(features, Tensor) or features.layout != torch.strided:
        got = f"{features.layout} tensor" if isinstance(features, Tensor) else type(features).__name__
        raise MmfastError(f"{op}: features is a {got}; wanted a dense tensor or array [items, width]")
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if features.dim() != 2 or features.shape[1] == 0 or features.dtype not in types:
        raise MmfastError(
            f"{op}: features has shape {tuple(features.shape)} and type {features.dtype}; "
            "wanted [items, width] in float16, bfloat16, float32 or float64"
        )
    check_whole(op, block_bytes=block_bytes)
    if metric not in METRICS:
        raise MmfastError(f"{op}: metric='{metric}' is unknown; choose {' or '.join(METRICS)}")
    if precision not in PRECISIONS:
        raise MmfastError(f"{op}: precision='{precision}' is unknown; choose one of {', '.join(PRECISIONS)}")
    return features.detach()


def _tensor_of(op: str, array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):  # negative strides, a foreign byte order, types that torch lacks
        raise MmfastError(
            f"{op}: features is an array of {array.dtype.str} with strides {array.strides}, which torch cannot read in "
            "place; pass np.ascontiguousarray(features, dtype=np.float32)"
        ) from None


def similarity_type(features: Tensor) -> torch.dtype:
    """Return the type of the similarities of `features`."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _check_k(op: str, k: int, num_items: int, include_self: bool) -> None:
    check_whole(op, k=k)
    most = max(num_items - (not include_self), 0)
    if most == 0:
        alone = "" if include_self else " beside the item itself"
        raise MmfastError(f"{op}: features has {num_items} items, so there is none to choose{alone}; give more items")
    if not 1 <= k <= most:
        there = f"there are only {num_items} items" if k > most else "every item needs a neighbour"
        raise MmfastError(f"{op}: k={k} but {there}; choose {'1 <= ' if k < 1 else ''}k <= {most}")


def _best(similarity: Tensor, k: int, include_self: bool) -> tuple[Tensor, Tensor]:
    order = similarity.clone().fill_diagonal_(torch.inf if include_self else -torch.inf)
    neighbours = order.argsort(dim=1, descending=True, stable=True)[:, :k]  # stable: the lower id first among equals
    absent = order.gather(1, neighbours) == -torch.inf
    similarities = similarity.gather(1, neighbours).masked_fill_(absent, -torch.inf)
    return neighbours.masked_fill_(absent, -1).int(), similarities


def _fake(
    features: Tensor, k: int, include_self: bool, metric: str, block_bytes: int, precision: str
) -> tuple[Tensor, Tensor]:
    shape = (features.shape[0], k)
    return features.new_empty(shape, dtype=torch.int32), features.new_empty(shape, dtype=similarity_type(features))


def _fake_update(
    features: Tensor, neighbours: Tensor, similarities: Tensor, include_self: bool, metric: str, block_bytes: int
) -> tuple[Tensor, Tensor]:
    return _fake(features, neighbours.shape[1], include_self, metric, block_bytes, "float32")


register("knn_graph", _fake)
register("knn_update", _fake_update)
