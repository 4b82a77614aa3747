"""Prepared folders for the end-to-end benchmarks: real interactions where given, power-law ones elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from _common import Shape, power_law_edges, shapes

from mmfast.data.dataset import Dataset, Interactions
from mmfast.data.load import load_dataset
from mmfast.data.prepared import write_prepared
from mmfast.data.synthetic import random_features

FEATURE_DIMS = {"image": 4096, "text": 384}  # the published Amazon features


def shaped_dataset(name: str, folder: Path | None, work: Path) -> Dataset:
    """Return data of the shape `name`, features memory-mapped; `folder` gives real interactions (and features)."""
    if folder is not None:
        real = load_dataset(str(folder))
        parts = {part: real.part(part) for part in ("train", "valid", "test")}
        return Dataset(
            name, real.num_users, real.num_items, **parts, features=feature_files(real.num_items, work, real.features)
        )
    shape = shapes[name]
    parts = power_law_parts(shape)
    return Dataset(name, shape.num_users, shape.num_items, **parts, features=feature_files(shape.num_items, work, {}))


def power_law_parts(shape: Shape) -> dict[str, Interactions]:
    """Return interactions of a shape in three parts, the sizes of the parts about those of the per-user rule."""
    held_out = int(shape.num_edges * 0.17)
    users, items = power_law_edges(Shape(shape.num_users, shape.num_items, shape.num_edges + 2 * held_out))
    order = np.random.default_rng(1).permutation(len(users))
    cuts = np.split(order, [shape.num_edges, shape.num_edges + held_out])
    return {
        part: Interactions.from_pairs(users[rows], items[rows])
        for part, rows in zip(("train", "valid", "test"), cuts, strict=True)
    }


def power_law_dataset(name: str, dims: dict[str, int]) -> Dataset:
    """Return data of the shape `name` in memory, random features of the given widths."""
    shape, rng = shapes[name], np.random.default_rng(2)
    features = {m: rng.standard_normal((shape.num_items, dim), dtype=np.float32) for m, dim in dims.items()}
    return Dataset(name, shape.num_users, shape.num_items, **power_law_parts(shape), features=features)


def feature_files(num_items: int, work: Path, real: dict) -> dict[str, np.ndarray]:
    """Return memory-mapped features of the published widths, random where `real` has none of that width."""
    features = {}
    for modality, dim in FEATURE_DIMS.items():
        if modality in real and real[modality].shape[1] == dim:
            features[modality] = real[modality]
            continue
        features[modality] = random_features(work / f"{modality}.npy", num_items, dim)
    return features


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """Write a Dataset as a prepared folder, ids as strings."""
    parts = [
        pl.DataFrame({"user": pairs.users, "item": pairs.items, "split": np.full(len(pairs), label, np.int8)})
        for label, pairs in enumerate((dataset.train, dataset.valid, dataset.test))
    ]
    users, items = (
        pl.DataFrame({"id": pl.int_range(n, eager=True).cast(pl.String)})
        for n in (dataset.num_users, dataset.num_items)
    )
    write_prepared(
        folder, name=dataset.name, rows=pl.concat(parts), users=users, items=items, features=dataset.features
    )
