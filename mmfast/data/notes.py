"""What a user should know of a prepared folder: rows left out, pairs in two parts, items without a feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmfast.data.interactions import Interactions

HELD_OUT = "train_pairs_held_out"


def pairs_also_in_train(parts: Mapping[str, Interactions], num_items: int) -> dict[str, int]:
    """Return how many pairs of valid and of test are in train too; they are counted, and kept as published."""
    train = _keys(parts["train"], num_items)
    return {part: _common(train, _keys(parts[part], num_items)) for part in ("valid", "test")}


def dropped_counts(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the non-zero counts of what was left out, such as {"repeated pairs in train": 93}."""
    flat: dict[str, int] = {}
    for what, number in manifest["dropped"].items():
        if isinstance(number, Mapping):
            flat.update({f"{what} in {part}": n for part, n in number.items()})
        else:
            flat[what] = number
    return {what.replace("_", " "): number for what, number in flat.items() if number}


def notes(manifest: Mapping[str, Any]) -> list[str]:
    """Return a line for each count of a manifest that is not zero, and for each `.npy` file that is no features."""
    lines = [f"dropped: {number:,} {what}" for what, number in dropped_counts(manifest).items()]
    for part, number in manifest.get(HELD_OUT, {}).items():
        if number:
            lines.append(f"kept: {number:,} {part} pairs that are in train too")
    for modality, about in manifest["features"].items():
        if about["missing"]:
            missing, items = len(about["missing"]), manifest["num_items"]
            lines.append(f"features '{modality}': {missing:,} of {items:,} items have none")
    for name, why in manifest.get("source", {}).get("passed_over", {}).items():
        lines.append(f"not taken as features: '{name}' {why}")
    return lines


def _keys(pairs: Interactions, num_items: int) -> np.ndarray:
    return pairs.users.astype(np.int64) * num_items + pairs.items


def _common(train: np.ndarray, held: np.ndarray) -> int:
    # Pairs are sorted by user, then item, so their keys are ascending and none stands twice.
    at = np.minimum(np.searchsorted(train, held), len(train) - 1)
    return int((train[at] == held).sum())
