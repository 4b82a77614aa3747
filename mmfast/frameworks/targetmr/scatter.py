"""The neighbourhoods of two items in a trained run: who is in them, how far apart they are, a picture (Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfast.distribution import need_drawing, picture_file, plane


@dataclass(frozen=True)
class Neighbourhoods:
    """The items nearest to two items: rows int64 [n]; side int64 [n], 0 or 1, whose; shared, the share of both."""

    rows: np.ndarray
    side: np.ndarray
    shared: float


def neighbourhoods(vectors: np.ndarray, first: int, second: int, count: int = 200) -> Neighbourhoods:
    """Return the `count` items most similar by cosine to each of two items, themselves included.

    vectors: float [I, D]. An item that is near both goes to the one it is more similar to.

    >>> neighbourhoods(np.eye(4)[[0, 0, 1, 1]], 0, 2, count=2).rows.tolist()
    [0, 1, 2, 3]
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(length, 1e-12)
    cosines = unit @ unit[[first, second]].T
    near = np.zeros(cosines.shape, bool)
    for side in (0, 1):
        near[np.argsort(-cosines[:, side], kind="stable")[:count], side] = True
    rows = np.flatnonzero(near.any(1))
    side = np.where(near[rows].all(1), cosines[rows, 1] > cosines[rows, 0], near[rows, 1]).astype(np.int64)
    return Neighbourhoods(rows, side, float(near.all(1).sum() / max(1, min(count, len(vectors)))))


def silhouette(vectors: np.ndarray, side: np.ndarray) -> float:
    """Return how well two groups of vectors [n, D] are apart, the mean silhouette by cosine; 0 for a single group.

    Raises MmfastError without scikit-learn.
    """
    need_drawing("sklearn")
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(vectors, side, metric="cosine")) if len(np.unique(side)) == 2 < len(side) else 0.0


def draw_neighbourhoods(
    runs: Mapping[str, tuple[np.ndarray, Neighbourhoods]], names: tuple[str, str], path: Path | str, seed: int = 0
) -> Path:
    """Draw title -> (item vectors [I, D], their neighbourhoods) as t-SNE in one colour for each of two items.

    Returns the path. Raises MmfastError as `draw` does, and for neighbourhoods of fewer than 10 items.
    """
    path = picture_file(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(runs), 3.9), layout="constrained")
    grid = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (title, (vectors, near)) in zip(grid, runs.items(), strict=True):
        points = plane(vectors[near.rows], seed)
        for side, name in enumerate(names):
            axes.scatter(*points[near.side == side].T, s=6, label=name, linewidths=0)
        axes.set(title=title, xticks=[], yticks=[])
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    return path
