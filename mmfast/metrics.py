"""Ranking metrics: each is a function of (hits, target_sizes, k) and gives one float64 value per user.

hits [U, K] is True where the item at rank r (column r - 1) is one of the user's targets; target_sizes [U] counts them.
The formulas are those of protocol section 6. To add a metric: write a function and register it in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

import numpy as np

from mmfast.errors import MmfastError, suggest

Metric = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
RETRIEVED = 20  # ranks from which the LATTICE family takes its ideal list, whatever the cut-off (protocol section 6)
METRICS: dict[str, Metric] = {}


def metric(name: str) -> Callable[[Metric], Metric]:
    """Return the decorator that registers a metric under `name`; it is then reported as `name@K`."""

    def enter(function: Metric) -> Metric:
        METRICS[name] = function
        return function

    return enter


@metric("recall")
def recall(hits: np.ndarray, target_sizes: np.ndarray, k: int) -> np.ndarray:
    """Return the share of a user's targets among the first k."""
    return hits[:, :k].sum(1) / target_sizes


@metric("precision")
def precision(hits: np.ndarray, target_sizes: np.ndarray, k: int) -> np.ndarray:
    """Return the share of targets among the first k ranks."""
    return hits[:, :k].sum(1) / k


@metric("ndcg")
def ndcg(hits: np.ndarray, target_sizes: np.ndarray, k: int) -> np.ndarray:
    """Return DCG over the best DCG possible with min(k, |T|) hits."""
    return _dcg(hits, k) / _ideal_dcg(np.minimum(target_sizes, k), k)


@metric("ndcg_retrieved")
def ndcg_retrieved(hits: np.ndarray, target_sizes: np.ndarray, k: int) -> np.ndarray:
    """Return DCG over that of the user's own hits among RETRIEVED ranks (k where that is more) moved to the front.

    Never below `ndcg`, and not comparable with it. Wants hits of as many ranks.
    """
    found = hits[:, : max(k, RETRIEVED)].sum(1)
    return _dcg(hits, k) / _ideal_dcg(np.clip(found, 1, k).astype(np.int64), k)


@metric("map")
def average_precision(hits: np.ndarray, target_sizes: np.ndarray, k: int) -> np.ndarray:
    """Return the sum over hits of precision at their rank, divided by min(k, |T|)."""
    found = hits[:, :k]
    at_rank = found.cumsum(1) / np.arange(1, found.shape[1] + 1)
    return (found * at_rank).sum(1) / np.minimum(target_sizes, k)


def _dcg(hits: np.ndarray, k: int) -> np.ndarray:
    found = hits[:, :k]
    return found @ (1 / np.log2(np.arange(2, found.shape[1] + 2)))


def _ideal_dcg(sizes: np.ndarray, k: int) -> np.ndarray:
    """Return the DCG of `sizes` hits on the first ranks; sizes are at least 1 and at most k."""
    return np.cumsum(1 / np.log2(np.arange(2, k + 2)))[sizes - 1]


def check_metrics(names: Sequence[str]) -> None:
    """Raise MmfastError for a metric that is not registered."""
    for name in names:
        if name not in METRICS:
            raise MmfastError(f"unknown metric '{name}'.{suggest(name, METRICS)} Known: {', '.join(sorted(METRICS))}")


def metric_mistakes(names: Sequence[str], top_k: Sequence[int], monitor: str | None) -> list[str]:
    """Return what is wrong with the metrics of a config and with the one that selects (None: unknown)."""
    mistakes = []
    for name in names:
        try:
            check_metrics([name])
        except MmfastError as error:
            mistakes.append(f"evaluate.metrics: {error}")
    computed = [f"{name}@{k}" for name in names for k in top_k]
    if not mistakes and monitor is not None and monitor not in computed:
        nearest = get_close_matches(monitor, computed, 1, cutoff=0)[0]
        mistakes.append(
            f"train.monitor: '{monitor}' is not evaluated; set train.monitor={nearest}, or another of those evaluated "
            f"(evaluate.metrics x evaluate.top_k): {', '.join(computed)}"
        )
    return mistakes


def per_user_metrics(
    hits: np.ndarray, target_sizes: np.ndarray, names: Sequence[str], top_k: Sequence[int], ndcg_kind: str = "standard"
) -> dict[str, np.ndarray]:
    """Return {"recall@20": float64 [U], ...} for every name and cut-off, in the order given.

    `ndcg_kind` "retrieved" computes `ndcg` as `ndcg_retrieved`. Raises MmfastError for an unknown metric.
    """
    check_metrics(names)
    functions = {name: METRICS[name] for name in names}
    if "ndcg" in functions and ndcg_kind == "retrieved":
        functions["ndcg"] = METRICS["ndcg_retrieved"]
    hits = np.asarray(hits, np.float64)
    sizes = np.asarray(target_sizes, np.int64)
    return {f"{name}@{k}": function(hits, sizes, k) for name, function in functions.items() for k in top_k}
