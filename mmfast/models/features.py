"""FeatureSource: what stands behind `model.item_features(modality)` - frozen, trainable or hidden item features."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmfast.embeddings import RowTable
from mmfast.ops import project_rows


class FeatureSource(nn.Module):
    """Item features of one modality: `rows(ids)` [R, F] and `all()` [I, F], float32."""

    feature_dim: int
    num_items: int

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the features of items `ids`, [R, F]; sorted unique ids keep the gradient row-sparse (abstract)."""
        raise NotImplementedError

    def all(self) -> torch.Tensor:
        """Return the features of every item, [I, F] (abstract)."""
        raise NotImplementedError

    def directions(self) -> torch.Tensor:
        """Return the features of every item at length 1 (zero rows stay zero), [I, F]."""
        return F.normalize(self.all(), dim=-1)

    def mean(self) -> torch.Tensor:
        """Return the mean row, [1, F]."""
        return self.all().mean(0, keepdim=True)

    def project(self, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return rows(ids) @ weight.T, [R, D], for sorted unique ids and weight [D, F]."""
        return self.rows(ids) @ weight.t()

    def through(self, rowwise: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return rowwise(all()), [I, D]; the map acts on every row alone, as a linear layer does."""
        return rowwise(self.all())


class TableFeatures(FeatureSource):
    """Features that lie in one table: its rows are projected without a copy of them."""

    def table(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the table [I, F], in the type it is kept in, of which only the rows `ids` may be read (abstract)."""
        raise NotImplementedError

    def project(self, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return rows(ids) @ weight.T, [R, D], for sorted unique ids and weight [D, F]."""
        table = self.table(ids)
        if table.dtype != weight.dtype or torch.is_autocast_enabled(table.device.type):
            return super().project(ids, weight)
        return project_rows(table, ids, weight)


class FrozenFeatures(TableFeatures):
    """Features as the data set holds them, never trained; a memory map stays a memory map on the CPU."""

    def __init__(self, features: np.ndarray) -> None:
        super().__init__()
        self.num_items, self.feature_dim = features.shape
        self.register_buffer("features", tensor_view(features), persistent=False)
        self.register_buffer("unit_features", None, persistent=False)
        self.register_buffer("mean_row", None, persistent=False)

    def table(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the features, [I, F]."""
        return self.features

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the features of items `ids`, [R, F] float32."""
        return self.features.index_select(0, ids).float()

    def all(self) -> torch.Tensor:
        """Return all features, [I, F] float32."""
        return self.features.float()

    def mean(self) -> torch.Tensor:
        """Return the mean row, [1, F] float32; kept."""
        if self.mean_row is None:
            self.mean_row = super().mean()
        return self.mean_row

    def directions(self) -> torch.Tensor:
        """Return all features at length 1, [I, F] float32; kept, for a model that reads them does so in every step."""
        if self.unit_features is None:
            self.unit_features = super().directions()
        return self.unit_features


class TrainableFeatures(RowTable, TableFeatures):
    """Features as a parameter that starts at the data set's values ("trainable features" of protocol section 8)."""

    def __init__(self, features: np.ndarray) -> None:
        super().__init__(torch.from_numpy(np.array(features, dtype=np.float32)))
        self.num_items, self.feature_dim = features.shape

    def table(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the parameter itself, [I, F], with the rows `ids` current."""
        return self.read(ids)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the features of items `ids`, [R, F]."""
        return F.embedding(ids, self.read(ids), sparse=True)


class HiddenFeatures(FeatureSource):
    """Every row is the mean row of another source: how a modality is masked (`hide={"image"}`)."""

    def __init__(self, source: FeatureSource) -> None:
        super().__init__()
        self.num_items, self.feature_dim = source.num_items, source.feature_dim
        self.source = source

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean row once per id, [R, F]."""
        return self.source.mean().expand(ids.numel(), -1)

    def all(self) -> torch.Tensor:
        """Return the mean row once per item, [I, F]."""
        return self.source.mean().expand(self.num_items, -1)

    def project(self, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return rows(ids) @ weight.T, [R, D], from the mean row projected once."""
        return (self.source.mean() @ weight.t()).expand(ids.numel(), -1)

    def through(self, rowwise: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return rowwise(all()), [I, D], from the mean row mapped once."""
        return rowwise(self.source.mean()).repeat(self.num_items, 1)


def tensor_view(array: np.ndarray) -> torch.Tensor:
    """Return a tensor over the array's own memory; the caller promises not to write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
