"""Reads a golden case: inputs, parameters and expected numbers of one model, whatever its sizes and seeds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from mmfast.data.dataset import Dataset, Interactions
from mmfast.data.sampler import Batch

TOLERANCE = 1e-5  # of the largest entry, in float32
CANCELLED = 0.03  # of the largest gradient: with the tolerance above 3e-7, a few roundings of it


def golden(name: str) -> GoldenCase:
    """Return the case `name` of the folder MMFAST_GOLDEN, by default tests/golden."""
    folder = Path(os.environ.get("MMFAST_GOLDEN", Path(__file__).parent / "golden"))
    with np.load(folder / f"{name}.npz") as arrays:
        return GoldenCase(dict(arrays))


class GoldenCase:
    """Arrays by name, and the data set and batch they describe."""

    def __init__(self, arrays) -> None:
        self.arrays = arrays
        self.hyper = json.loads(str(arrays["hyper_json"]))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def dataset(self) -> Dataset:
        """Return the case's data set with its image and text features."""
        parts = {
            part: Interactions.from_pairs(self[f"{part}_users"], self[f"{part}_items"])
            for part in ("train", "valid", "test")
        }
        return Dataset(
            "golden",
            int(self["num_users"]),
            int(self["num_items"]),
            **parts,
            features={"image": self["image_features"], "text": self["text_features"]},
        )

    def batch(self) -> Batch:
        """Return the batch on which loss and gradients were taken."""
        users, pos, neg = (torch.from_numpy(self[f"batch_{n}"]).long() for n in ("users", "pos_items", "neg_items"))
        size = int(self.hyper.get("train_batch_size", len(users)))
        return Batch(users, pos, neg, int(self["num_users"]), int(self["num_items"]), size)

    def parameter(self, name: str) -> torch.Tensor:
        """Return a parameter's values, float32."""
        return torch.from_numpy(self[f"param/{name}"])

    def dense(self, graph: str) -> np.ndarray:
        """Return a sparse matrix of the case as a dense array."""
        dense = np.zeros(self[f"graph/{graph}/shape"])
        dense[self[f"graph/{graph}/rows"], self[f"graph/{graph}/cols"]] = self[f"graph/{graph}/values"]
        return dense


def assert_gradient_close(got, want, largest: float, what: str, tolerance: float = TOLERANCE) -> None:
    """Assert that a gradient is close; `largest`, of all parameters, is the scale of one whose terms cancel.

    A projection's bias, for example, adds the same to both items of a pair: what the penalty leaves of its gradient may
    be a thousandth of the terms that were added, and what their rounding leaves is as large as ever.
    """
    nothing = np.abs(want).max(initial=0.0) < 1e-6 * largest
    assert_close(got, want, f"gradient of {what}", tolerance, floor=largest if nothing else CANCELLED * largest)


def assert_close(got, want, what: str, tolerance: float = TOLERANCE, floor: float = 1e-30) -> None:
    """Assert that the largest difference is at most `tolerance` of the largest wanted entry, or of `floor`."""
    got = got.detach().double().numpy() if isinstance(got, torch.Tensor) else np.asarray(got, dtype=np.float64)
    want = np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, wanted {want.shape}"
    assert np.isfinite(got).all(), f"{what}: not finite"
    scale = max(np.abs(want).max(initial=0.0), floor)
    error = np.abs(got - want).max(initial=0.0) / scale
    assert error <= tolerance, f"{what}: differs by {error:.2e} of the largest entry"
