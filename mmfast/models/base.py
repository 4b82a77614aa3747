"""Recommender: the contract of a backbone, and the three doors through which frameworks reach it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from mmfast.config import ModelConfig
from mmfast.errors import MmfastError, suggest
from mmfast.graph import Graph, user_item_pairs
from mmfast.models.features import FeatureSource, FrozenFeatures, HiddenFeatures, TrainableFeatures
from mmfast.models.named import NamedModules

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


class Recommender(nn.Module):
    """A backbone: user and item vectors whose inner product ranks, and a loss on a batch.

    The doors: features in (`item_features`, `set_item_features`), graph in (`set_interaction_graph`), tables out
    (`embed`, `id_embeddings`). A subclass sets `uses_negatives` and `content_in_scores` to False where negatives are
    not drawn and where features act in the loss alone, so that hiding them cannot change a score.
    """

    Config = ModelConfig
    uses_negatives = True
    content_in_scores = True
    step_tables = 16.0
    """Tables [U + I, D] that a training step holds beside parameters and gradients, for IDs and for every modality:
    the allowance of `mmfast.memory`, above the peaks measured."""

    def __init__(self, config: ModelConfig, dataset: Dataset, generator: torch.Generator) -> None:
        """Build parameters from `generator` and graphs from the training part of `dataset`."""
        super().__init__()
        self.config = config
        self.num_users = dataset.num_users
        self.num_items = dataset.num_items
        self.sources = NamedModules()
        self.graph: Graph | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities this model reads, in a fixed order: text first, then by name."""
        return tuple(sorted(self.sources, key=lambda name: (name != "text", name)))

    @property
    def images_first(self) -> tuple[str, ...]:
        """The modalities in the order most released programs take them: images, then by name."""
        return tuple(sorted(self.sources, key=lambda name: (name != "image", name)))

    def add_features(self, dataset: Dataset, trainable: bool) -> None:
        """Take every modality of the data set as a feature source. Raises MmfastError when it has none."""
        if not dataset.features:
            raise MmfastError(
                f"{type(self).__name__} needs item features, but data set '{dataset.name}' has none; "
                "add a feature file or choose a model without features (bpr, lightgcn)"
            )
        kind = TrainableFeatures if trainable else FrozenFeatures
        for modality, features in dataset.features.items():
            self.sources[modality] = kind(features)

    def item_features(self, modality: str, hide: Collection[str] = ()) -> FeatureSource:
        """Return the source of a modality, its mean row in place of every row when the modality is in `hide`."""
        source = self.sources[modality]
        return HiddenFeatures(source) if modality in hide else source

    def set_item_features(self, modality: str, source: FeatureSource) -> None:
        """Put another source behind `item_features(modality)` (door 1); its feature_dim must stay the same."""
        old = self.sources[modality]
        if source.feature_dim != old.feature_dim:
            raise MmfastError(
                f"set_item_features: '{modality}' has feature_dim {source.feature_dim}; the model was built for "
                f"{old.feature_dim}; build the model on a data set with the new features"
            )
        self.sources[modality] = source

    def interactions(self, graph: Graph) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return the edges of an interaction graph as `user_item_graph` takes them: users, items, U, I."""
        return *user_item_pairs(graph, self.num_users), self.num_users, self.num_items

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges that messages pass over (door 2); positives and evaluation masks stay."""
        nodes = self.num_users + self.num_items
        if graph.num_nodes != nodes:
            raise MmfastError(f"set_interaction_graph: the graph has {graph.num_nodes} nodes; wanted U + I = {nodes}")
        self.graph = graph

    def check_hide(self, hide: Collection[str]) -> frozenset[str]:
        """Return `hide` as a set. Raises MmfastError for a modality the model does not read."""
        for modality in hide:
            if modality not in self.sources:
                known = ", ".join(self.modalities) or "none"
                raise MmfastError(
                    f"hide: {type(self).__name__} reads no modality '{modality}'."
                    f"{suggest(modality, self.modalities)} It reads: {known}"
                )
        return frozenset(hide)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]) by the current parameters, to be multiplied (abstract)."""
        raise NotImplementedError

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the trainable ID tables (users [U, D], items [I, D]), by default the two parts of `self.nodes`."""
        return self.users_and_items(self.nodes.all())

    def users_and_items(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two parts of a table of all nodes [N, D]: users [U, D], items [I, D]."""
        return nodes.split([self.num_users, self.num_items])

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return named, already weighted scalar terms; their sum is minimised (abstract)."""
        raise NotImplementedError

    def add_memory(self, dim: int) -> None:
        """Make room for the vectors [.., dim] of the last training step, where `stale_eval` asks for them."""
        if self.config.stale_eval:
            self.register_buffer("last_users", torch.zeros(self.num_users, dim))
            self.register_buffer("last_items", torch.zeros(self.num_items, dim))
            self.register_buffer("has_last", torch.zeros((), dtype=torch.bool))

    def remember(self, users: torch.Tensor, items: torch.Tensor) -> None:
        """Keep the vectors of a training step: `stale_eval` ranks by them (protocol section 7)."""
        if self.config.stale_eval and self.training:
            self.last_users.copy_(users.detach())
            self.last_items.copy_(items.detach())
            self.has_last.fill_(True)

    def remembered(self, hide: Collection[str]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the kept vectors when an evaluation with nothing hidden is to use them, else None."""
        if not self.config.stale_eval or self.training or hide or not self.has_last:
            return None
        return self.last_users, self.last_items

    def after_step(self) -> None:
        """Follow an optimiser step (a momentum encoder, ...)."""

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Prepare an epoch (resample a graph, ...); all randomness comes from `generator`."""
