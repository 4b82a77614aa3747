"""FREEDOM: frozen content item graph, degree-sensitive edge sampling on the user-item graph (Zhou & Shen, MM 2023).

Follows the released code: every kept neighbour weighs 1 / k, the item itself among them; raw features are trained.
Departs from it for items whose feature row is all zero: they are nobody's neighbour but their own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat

from mmfast.config import ModelConfig
from mmfast.dataset_graphs import mixing_weights
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, keep_edges, mixed_neighbour_graph, subgraph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.named import NamedModules
from mmfast.neighbours import item_neighbours
from mmfast.ops import bpr_loss
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("freedom")
class FREEDOM(Recommender):
    """user = LightGCN mean; item = LightGCN mean + item-graph product of the item ID table."""

    step_tables = 4.0
    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of FREEDOM."""

        num_layers: int = Field(2, ge=0)
        """Propagation layers on the user-item graph."""
        num_item_layers: int = Field(1, ge=0)
        """Products with the item graph."""
        k: int = Field(10, ge=1)
        """Neighbours per item, itself included."""
        image_weight: float = Field(0.1, ge=0, le=1)
        """Weight of the image graph (mm_image_weight); the others share the rest, or all alike without images."""
        modality_weights: dict[str, NonNegativeFloat] | None = None
        """Weights of the item graphs by modality, in place of image_weight; they are scaled to add up to 1."""
        edge_dropout: float = Field(0.8, ge=0, lt=1)
        """Share of training edges left out, redrawn before every epoch; the grid is 0.8, 0.9."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the content losses, not of an L2 term; the grid is 0, 1e-5, 1e-4, 1e-3."""
        train_features: bool = True
        """Train the raw features (released code); False trains the projections alone."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=config.train_features)
        sizes = [self.num_users, self.num_items]
        self.nodes = EmbeddingTable(sizes, config.embedding_dim, "xavier_uniform", generator)
        self.projections = NamedModules(
            {m: linear(self.item_features(m).feature_dim, config.embedding_dim, generator) for m in self.modalities}
        )
        self.neighbours = {m: item_neighbours(dataset, m, config.k) for m in self.modalities}
        self.item_graphs = NamedModules({"": self._item_graph(frozenset())})
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the full graph (door 2); the next epoch samples its edges."""
        super().set_interaction_graph(graph)
        self.training_graph = graph

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Draw the training graph of this epoch: G-DROP of the full one."""
        if self.config.edge_dropout > 0:
            seed = int(torch.randint(2**62, (1,), generator=generator))
            self.keep_edges(keep_edges(self.graph, self.config.edge_dropout, seed))

    def keep_edges(self, kept: np.ndarray) -> None:
        """Train on the edges `kept` (ids into `self.graph.edges()`), normalised by their own degrees."""
        self.training_graph = subgraph(self.graph, kept).to(self.nodes.weight.device)

    def modality_weights(self, hide: frozenset[str] = frozenset()) -> dict[str, float]:
        """Return the weight of each modality that is not hidden; they add up to 1."""
        return mixing_weights(self.modalities, self.config.image_weight, self.config.modality_weights, hide)

    def _item_graph(self, hide: frozenset[str]) -> Graph:
        weights = self.modality_weights(hide)
        return mixed_neighbour_graph({m: self.neighbours[m] for m in weights}, weights, self.num_items)

    def item_graph(self, hide: frozenset[str] = frozenset()) -> Graph | None:
        """Return K-MIX over the modalities not hidden, None when all are; built once for each choice."""
        if hide >= set(self.modalities):
            return None
        key = "+".join(sorted(hide))
        if key not in self.item_graphs:
            self.item_graphs[key] = self._item_graph(hide).to(self.nodes.weight.device)
        return self.item_graphs[key]

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors (users [U, D], items [I, D]) on the full graph; a hidden modality leaves the item graph."""
        final = self.once("final", lambda: self.graph.propagate(self.nodes.all(), self.config.num_layers))
        users, items = self.users_and_items(final)
        graph = self.item_graph(self.check_hide(hide))
        if graph is None:
            return users, items
        return users, items + graph.propagate(self.id_embeddings()[1], self.config.num_item_layers, "last")

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` on the sampled graph and one content term per modality, reg_weight applied."""
        user_rows, user = batch.unique_users
        item_rows, pos, neg = batch.unique_items
        rows = torch.cat([user_rows, item_rows + self.num_users])
        nodes, _, own = self.nodes_and_parts()
        final, _ = self.training_graph.propagate_rows(nodes, rows, self.config.num_layers)
        users, items = final.split([len(user_rows), len(item_rows)])
        if graph := self.item_graph(self.masked):
            items = items + graph.propagate_rows(own, item_rows, self.config.num_item_layers, "last")[0]
        terms = {"bpr": bpr_loss(users, items, user, pos, neg, "logsigmoid")}
        for modality, projection in self.projections.items():
            terms[f"bpr_{modality}"] = users.new_zeros(())
            if self.config.reg_weight:
                content = self.item_features(modality).project(item_rows, projection.weight) + projection.bias
                term = bpr_loss(users, content, user, pos, neg, "logsigmoid")
                terms[f"bpr_{modality}"] = self.config.reg_weight * term
        return terms
