"""Pictures of features: densities against their formulas and scipy's, t-SNE that repeats, files that are pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmfast import distribution
from mmfast.distribution import angle_density, density, draw, plane
from mmfast.errors import MmfastError


def points(count, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)) * np.arange(1, dim + 1)


def test_the_density_is_scipys_where_one_width_fits_all():
    from scipy.stats import gaussian_kde

    line, at = points(50, 1), np.linspace(-3, 3, 7)[:, None]
    np.testing.assert_allclose(density(line, at), gaussian_kde(line.T)(at.T), rtol=1e-10)


def test_the_density_of_the_plane_is_a_mean_of_products_of_normals():
    given, at = points(30, 2), np.array([[0.3, -1.0], [2.0, 2.0]])
    width = given.std(0, ddof=1) * 30 ** (-1 / 6)
    bells = np.exp(-0.5 * ((at[:, None] - given) / width) ** 2) / (np.sqrt(2 * np.pi) * width)
    np.testing.assert_allclose(density(given, at), bells.prod(2).mean(1), rtol=1e-12)
    assert np.isfinite(density(np.zeros((5, 2)), at)).all()


def test_the_density_of_the_angle_closes_and_adds_up_to_1():
    circle = np.linspace(-np.pi, np.pi, 721)
    height = angle_density(points(40, 2) - [2.0, 0.0], circle)
    assert height[0] == pytest.approx(height[-1]) and height.argmax() in (0, 720, *range(600, 720), *range(120))
    assert np.trapezoid(height, circle) == pytest.approx(1, abs=1e-3)


def test_two_kinds_of_items_come_apart_and_the_same_seed_repeats():
    kind = np.arange(40) % 2
    features = (10 * kind[:, None] + np.random.default_rng(1).normal(size=(40, 6))).astype(np.float32)
    first = plane(features, seed=3)
    assert first.shape == (40, 2) and np.abs(first.mean(0)).max() < 1e-4
    assert np.array_equal(first, plane(features, seed=3))
    middles = np.stack([first[kind == side].mean(0) for side in (0, 1)])
    away = np.linalg.norm(first - middles[1 - kind], axis=1)
    assert (np.linalg.norm(first - middles[kind], axis=1) < away).mean() > 0.9


def test_a_picture_is_drawn_of_a_sample_of_items(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(distribution, "plane", lambda features, seed: seen.append(features) or points(len(features), 2))
    tables = {
        "image": {"original": points(30, 4), "CLIP": points(30, 3), "PTMRec": points(30, 3, 1)},
        "text": {"CLIP": points(30, 3), "PTMRec": points(30, 3, 1)},
    }
    path = draw(tables, tmp_path / "picture.png", most_items=12)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 400
    assert [table.shape for table in seen] == [(12, 4), *[(12, 3)] * 4]
    rows = [np.flatnonzero((tables["image"]["CLIP"][:, None] == seen[n]).all(2).any(1)) for n in (1, 3)]
    assert np.array_equal(*rows)  # the same items in every setting


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    with pytest.raises(MmfastError, match=r"'picture.txt' is no picture; wanted a name with .png, .pdf, .svg"):
        draw({"image": {"CLIP": points(20, 2)}}, tmp_path / "picture.txt")
    with pytest.raises(MmfastError, match="9 items are too few for t-SNE; give 10 or more"):
        plane(points(9, 2))
    monkeypatch.setattr(distribution.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MmfastError, match=r"needs sklearn; pip install -e \"\.\[study\]\""):
        plane(points(20, 2))
