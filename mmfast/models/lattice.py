"""LATTICE: an item graph learned from features, rebuilt every epoch, beside LightGCN (Zhang et al., MM 2021).

Follows MMRec's port. The learned graph keeps k entries a row; the reference holds it, and several copies, as I x I.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import nn

from mmfast.dataset_graphs import cosine_graphs
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import ranking_terms, unit
from mmfast.models.learned_graph import LearnedGraphConfig, detached, inverse_root, similarities
from mmfast.models.named import NamedModules
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


class Learned(nn.Module):
    """The learned part of S: a graph for each modality, their weights [M] and the scale [I] of both ends of the mix."""

    def __init__(self, graphs: Mapping[str, Graph], weights: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.graphs = NamedModules(graphs)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def detach(self) -> Learned:
        """Return the same without a gradient."""
        graphs = {m: detached(graph) for m, graph in self.graphs.items()}
        return Learned(graphs, self.weights.detach(), self.scale.detach())


@MODELS.register("lattice")
class LATTICE(Recommender):
    """item = collaborative vector + n(S^L Q), S = (1 - lambda) learned + lambda original item graph."""

    over_ranks = "batch"

    class Config(LearnedGraphConfig):
        """Options of LATTICE; the released code decays the rate: `train.lr_decay=[0.96, 50]`."""

        reg_weight: float = Field(1e-3, ge=0)
        """Weight of R-HALF on final vectors; the grid is 0, 1e-5, 1e-4, 1e-3."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=config.train_features)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        self.nodes = EmbeddingTable(sizes, dim, "xavier_uniform", generator)
        self.projections = NamedModules(
            {m: linear(self.item_features(m).feature_dim, dim, generator) for m in self.images_first}
        )
        self.mixing = nn.Parameter(torch.full((len(self.modalities),), 0.5))
        self.original_graphs = NamedModules(cosine_graphs(dataset, self.modalities, config.k))
        self.learned: Learned | None = None  # of this epoch's first batch
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2): self loops are added and rows divided by their sums."""
        super().set_interaction_graph(user_item_graph(*self.interactions(graph), "rw"))

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Let the first batch of the epoch rebuild the item graph, with a gradient."""
        self.learned = None

    def learn(self, hide: frozenset[str] = frozenset()) -> Learned:
        """Return the learned part, with a gradient: mixed first, then divided by the roots of its row sums."""
        near = {
            m: similarities(self.item_features(m, hide).through(projection), self.config.k)
            for m, projection in self.projections.items()
        }
        weights = torch.softmax(self.mixing, dim=0)
        sums = sum(weight * part.row_sums() for weight, part in zip(weights, near.values(), strict=True))
        return Learned({m: part.graph() for m, part in near.items()}, weights, inverse_root(sums))

    def smooth(self, learned: Learned, x: torch.Tensor) -> torch.Tensor:
        """Return S x, [I, D]."""
        share, scale = self.config.original_weight, learned.scale
        scaled, total = scale[:, None] * x, 0
        for weight, (modality, graph) in zip(learned.weights, learned.graphs.items(), strict=True):
            near = scale[:, None] * graph.propagate(scaled, 1, "last")
            fixed = self.original_graphs[modality].propagate(x, 1, "last")
            total = total + weight * ((1 - share) * near + share * fixed)
        return total

    def vectors(self, learned: Learned) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D])."""
        nodes, users, items = self.nodes_and_parts()
        near = items
        for _ in range(self.config.num_item_layers):
            near = self.smooth(learned, near)
        if self.config.backbone == "lightgcn":
            final = self.graph.propagate(nodes, self.config.num_layers)
            users, items = self.users_and_items(final)
        return users, items + unit(near)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]) on an item graph rebuilt by the current parameters."""
        return self.vectors(self.learn(self.check_hide(hide)))

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` and `reg`; the first batch of an epoch rebuilds the item graph, the others reuse it detached."""
        learned = self.learned
        if learned is None:
            learned = self.learn()
            self.learned = learned.detach()
        users, items = self.vectors(learned)
        return ranking_terms(self.config, batch, users, items)
