"""How item features lie: t-SNE to the plane, the density there, and the density of the angle (PTMRec's Figure 4)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmfast.doctor import install_line
from mmfast.errors import MmfastError

GRID = 80  # points of a side of the plane, and of the circle twice as many
MARGIN = 0.1  # of the picture, beyond the outermost points
FEWEST = 10
ENDINGS = (".png", ".pdf", ".svg")
Tables = Mapping[str, Mapping[str, np.ndarray]]


def plane(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return t-SNE of features [n, F] with its middle at 0, float64 [n, 2]; the same seed gives the same points.

    Raises MmfastError for fewer than 10 rows, and without scikit-learn.
    """
    need_drawing("sklearn")
    from sklearn.manifold import TSNE

    if len(features) < FEWEST:
        raise MmfastError(f"distribution: {len(features)} items are too few for t-SNE; give {FEWEST} or more")
    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(np.asarray(features, np.float32))
    return points.astype(np.float64) - points.mean(0)


def density(points: np.ndarray, at: np.ndarray, period: float | None = None) -> np.ndarray:
    """Return the Gaussian kernel density of points [n, d] at [m, d], float64 [m], by Scott's rule for the width.

    Every dimension has a width of its own, deviation * n ** (-1 / (d + 4)). With `period` (d = 1) the line is a circle
    of that length.

    >>> float(density(np.array([[-1.0], [1.0]]), np.array([[0.0]])).round(4))
    0.262
    """
    count, dim = points.shape
    width = points.std(0, ddof=1) * count ** (-1 / (dim + 4))
    width = np.where(width > 0, width, 1.0)
    shifts = (0.0,) if period is None else (-period, 0.0, period)
    total = np.zeros(len(at))
    for shift in shifts:
        for row, place in enumerate(at):
            total[row] += np.exp(-0.5 * (((place + shift - points) / width) ** 2).sum(1)).sum()
    return total / (count * np.prod(width * np.sqrt(2 * np.pi)))


def angle_density(points: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the density of the angle of points [n, 2] at angles [m] in radians, [m]; the circle closes."""
    angles = np.arctan2(points[:, 1], points[:, 0])
    return density(angles[:, None], at[:, None], period=2 * np.pi)


def draw(tables: Tables, path: Path | str, most_items: int = 2000, seed: int = 0) -> Path:
    """Draw modality -> setting -> features [I, F] into a picture file and return its path.

    Each setting (frozen CLIP, tuned, ...) is a column: the density in the plane, and below it that of the angle. Of
    more than `most_items` items a sample is taken, the same in all settings. Raises MmfastError for an ending that is
    no picture's, and without matplotlib or scikit-learn.
    """
    path = picture_file(path)
    from matplotlib.figure import Figure

    columns = max(map(len, tables.values()))
    figure = Figure(figsize=(3.2 * columns, 4.6 * len(tables)), layout="constrained")
    grid = figure.subplots(2 * len(tables), columns, squeeze=False, height_ratios=[3, 1] * len(tables))
    for row, (modality, settings) in enumerate(tables.items()):
        for column, (name, features) in enumerate(settings.items()):
            rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:most_items])
            points = plane(features[rows], seed)
            _draw_plane(grid[2 * row, column], points, f"{modality}, {name}")
            _draw_angle(grid[2 * row + 1, column], points)
        for unused in grid[2 * row : 2 * row + 2, len(settings) :].ravel():
            unused.set_axis_off()
    figure.savefig(path, dpi=150)
    return path


def picture_file(path: Path | str) -> Path:
    """Return the path of a picture that may be written.

    Raises MmfastError for an ending that is no picture's, and without matplotlib.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise MmfastError(f"distribution: '{path.name}' is no picture; wanted a name with {', '.join(ENDINGS)}")
    need_drawing("matplotlib")
    return path


def _draw_plane(axes: object, points: np.ndarray, title: str) -> None:
    low, high = points.min(0), points.max(0)
    x, y = (np.linspace(a - MARGIN * (b - a), b + MARGIN * (b - a), GRID) for a, b in zip(low, high, strict=True))
    at = np.stack(np.meshgrid(x, y), 2).reshape(-1, 2)
    axes.contourf(x, y, density(points, at).reshape(GRID, GRID), levels=12, cmap="GnBu")
    axes.scatter(*points.T, s=1, color="black", alpha=0.3, linewidths=0)
    axes.set(title=title, xticks=[], yticks=[])


def _draw_angle(axes: object, points: np.ndarray) -> None:
    angles = np.linspace(-np.pi, np.pi, 2 * GRID)
    height = angle_density(points, angles)
    axes.fill_between(angles, height, color="tab:cyan", alpha=0.5)
    axes.set(xlim=(-np.pi, np.pi), ylim=(0, None), xlabel="angle", ylabel="density")


def need_drawing(module: str) -> None:
    """Raise MmfastError when a package that pictures need is absent."""
    if importlib.util.find_spec(module) is None:
        raise MmfastError(f"the picture of a distribution needs {module}; {install_line('study')}")
