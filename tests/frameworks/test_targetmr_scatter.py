"""The neighbourhoods of two items: who is near which, how far apart they are, and a file that is a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.scatter import draw_neighbourhoods, neighbourhoods, silhouette


def test_neighbours_of_two_items_go_to_the_nearer_and_two_groups_are_told_apart(tmp_path):
    from sklearn.metrics import silhouette_score

    angles = np.deg2rad([0, 5, 10, 60, 80, 85, 90, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) * np.arange(1, 9)[:, None]
    near = neighbourhoods(vectors, 0, 6, count=4)
    assert near.rows.tolist() == [0, 1, 2, 3, 4, 5, 6] and near.side.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert near.shared == pytest.approx(1 / 4)  # the fourth item is among the four nearest of both
    expected = silhouette_score(vectors[near.rows], near.side, metric="cosine")
    assert silhouette(vectors[near.rows], near.side) == pytest.approx(expected)
    assert silhouette(vectors, np.zeros(8)) == 0
    assert len(neighbourhoods(vectors, 0, 6, count=100).rows) == 8
    many = np.random.default_rng(0).normal(size=(40, 4))
    shown = {"plain": (many, neighbourhoods(many, 0, 1, 20)), "with": (many, neighbourhoods(many, 0, 1, 30))}
    path = draw_neighbourhoods(shown, ("a shoe", "a lamp"), tmp_path / "two.png")
    with Image.open(path) as picture:
        assert picture.width > 1.5 * picture.height
    with pytest.raises(MmfastError, match="no picture"):
        draw_neighbourhoods(shown, ("a", "b"), tmp_path / "two.txt")
