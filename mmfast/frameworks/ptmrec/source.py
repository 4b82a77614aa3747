"""Features by tuned CLIP behind the backbone's first door: a table of all items, some rows of it live for a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mmfast.embeddings import RowTable
from mmfast.models.features import FeatureSource
from mmfast.ops import project_rows


class TunedFeatures(FeatureSource):
    """table [I, F] without a gradient + `delta` [I, F], trained, where the backbone trains its features.

    Feature + delta with a delta of zero is a trainable feature with the same gradients (the table is what it starts
    at), and the delta stays what it is when CLIP's part changes.
    """

    def __init__(self, table: torch.Tensor, trainable: bool) -> None:
        super().__init__()
        self.num_items, self.feature_dim = table.shape
        self.register_buffer("table", table.float().clone())
        self.delta = RowTable(torch.zeros_like(self.table)) if trainable else None
        self._live: tuple[torch.Tensor, torch.Tensor] | None = None

    def set_live(self, ids: torch.Tensor | None, rows: torch.Tensor | None) -> None:
        """Let rows [R, F] stand for the items `ids`, int64 [R] sorted and unique, until None takes them away."""
        self._live = None if ids is None or rows is None else (ids, rows)

    def clip_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return CLIP's features of items `ids` [R] in any order, live where they are, [R, F]."""
        frozen = self.table.index_select(0, ids)
        if self._live is None or not len(self._live[0]):
            return frozen
        live, rows = self._live
        if len(live) == len(ids) and torch.equal(live, ids):
            return rows
        place = torch.searchsorted(live, ids).clamp_(max=len(live) - 1)
        return torch.where((live[place] == ids)[:, None], rows.index_select(0, place), frozen)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the features of items `ids`, [R, F]."""
        rows = self.clip_rows(ids)
        return rows if self.delta is None else rows + F.embedding(ids, self.delta.read(ids), sparse=True)

    def all(self) -> torch.Tensor:
        """Return the features of every item, [I, F]."""
        table = self.table if self._live is None else self.table.index_copy(0, *self._live)
        return table if self.delta is None else table + self.delta.all()

    def project(self, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return rows(ids) @ weight.T, [R, D], for sorted unique ids and weight [D, F]."""
        if self._live is not None or torch.is_autocast_enabled(self.table.device.type):
            return super().project(ids, weight)
        product = project_rows(self.table, ids, weight)
        return product if self.delta is None else product + project_rows(self.delta.read(ids), ids, weight)


def tune_features(model: nn.Module, modalities: tuple[str, ...]) -> None:
    """Put `TunedFeatures` in the place of a model's sources of these modalities, trainable where those are."""
    for modality in modalities:
        source = model.sources[modality]
        trainable = any(True for _ in source.parameters())
        with torch.no_grad():
            model.set_item_features(modality, TunedFeatures(source.all().detach(), trainable))
