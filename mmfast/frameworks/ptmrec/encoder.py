"""The rows of items by the towers: with a gradient for a batch, without one for the table of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mmfast.frameworks.ptmrec.inputs import ImageInputs, TextInputs
from mmfast.frameworks.ptmrec.towers import check_clip, encode_images, encode_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_AT_ONCE = 256
TEXTS_AT_ONCE = 64  # of like length: most padding is gone


@dataclass
class ItemEncoder:
    """A frozen CLIP model and what it reads, by modality; `tuning` of the calls is what is trained."""

    clip: Any
    inputs: Mapping[str, ImageInputs | TextInputs]
    device: torch.device
    after_sot: bool = False
    remember: bool = True
    batch_size: int = MOST_AT_ONCE

    def __post_init__(self) -> None:
        check_clip(self.clip)
        self.clip = self.clip.eval().requires_grad_(False).to(self.device)

    def rows(self, modality: str, tuning: nn.ModuleDict, items: np.ndarray) -> torch.Tensor:
        """Return features float32 [n, F], with a gradient, of items [n] that have this modality."""
        inputs = self.inputs[modality]
        size = self.batch_size if modality == "image" else min(TEXTS_AT_ONCE, self.batch_size)
        groups = inputs.groups(items, size)
        parts = [self.encode(modality, tuning, inputs.batch(items[group], self.device)) for group in groups]
        back = torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.device)
        return torch.cat(parts).index_select(0, back)

    def encode(self, modality: str, tuning: nn.ModuleDict, batch: torch.Tensor) -> torch.Tensor:
        """Return features float32 [n, F] of normalised pixels or token ids."""
        if modality == "image":
            return encode_images(self.clip, tuning["image"], batch, self.remember)
        return encode_texts(self.clip, tuning["text"], batch, self.after_sot, self.remember)

    def table(self, modality: str, tuning: nn.ModuleDict) -> torch.Tensor:
        """Return features float32 [I, F] of all items without a gradient; an item without input gets the mean row."""
        known = self.inputs[modality].known
        items = np.flatnonzero(known)
        # Neighbours in length share a call, wherever they stand in the catalogue.
        order = np.concatenate(self.inputs[modality].groups(items, len(items)))
        table = None
        with torch.no_grad():
            for start in range(0, len(items), self.batch_size):
                part = items[order[start : start + self.batch_size]]
                rows = self.rows(modality, tuning, part)
                table = torch.empty(len(known), rows.shape[1], device=self.device) if table is None else table
                table[torch.from_numpy(part).to(self.device)] = rows
            mask = torch.from_numpy(known).to(self.device)
            table[~mask] = table[mask].mean(0, dtype=torch.float64).float()
        return table
