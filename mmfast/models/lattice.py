"""LATTICE: an item graph learned from features, rebuilt every epoch, beside LightGCN (Zhang et al., MM 2021).

Follows MMRec's port. The learned graph keeps k entries a row; the reference holds it, and several copies, as I x I.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.dataset_graphs import cosine_graphs
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import unit
from mmfast.models.learned_graph import Similarities, inverse_root, similarities
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, half_square_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

Smooth = Callable[[torch.Tensor], torch.Tensor]


@MODELS.register("lattice")
class LATTICE(Recommender):
    """item = collaborative vector + n(S^L Q), S = (1 - lambda) learned + lambda original item graph."""

    class Config(ModelConfig):
        """Options of LATTICE; the released code decays the rate: `train.lr_decay=[0.96, 50]`."""

        num_layers: int = Field(2, ge=0)
        """Propagation layers on the user-item graph."""
        num_item_layers: int = Field(1, ge=0)
        """Products with the item graph (n_layers)."""
        k: int = Field(10, ge=1)
        """Neighbours per item, itself included."""
        original_weight: float = Field(0.9, ge=0, le=1)
        """Share lambda of the graph of the raw features."""
        backbone: Literal["lightgcn", "mf"] = "lightgcn"
        """lightgcn: means over layers of a graph with self loops and rows that add up to 1; mf: the tables."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of R-HALF on final vectors; the grid is 0, 1e-5, 1e-4, 1e-3."""
        train_features: bool = True
        """Train the raw features (released code); False trains the projections alone."""

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
        self.learned: tuple[dict[str, Similarities], torch.Tensor] | None = None
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2): self loops are added and rows divided by their sums."""
        super().set_interaction_graph(user_item_graph(*self.interactions(graph), "rw"))

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Let the first batch of the epoch rebuild the item graph, with a gradient."""
        self.learned = None

    def learn(self, hide: frozenset[str] = frozenset()) -> tuple[dict[str, Similarities], torch.Tensor]:
        """Return what the item graph is made of: similarities by modality and the weights of the modalities [M]."""
        lists = {}
        for modality, projection in self.projections.items():
            lists[modality] = similarities(projection(self.item_features(modality, hide).all()), self.config.k)
        return lists, torch.softmax(self.mixing, dim=0)

    def smoother(self, learned: tuple[dict[str, Similarities], torch.Tensor]) -> Smooth:
        """Return the product with S. The learned part is mixed first, then divided by the roots of its row sums."""
        lists, weights = learned
        share = self.config.original_weight
        sums = sum(weight * part.row_sums() for weight, part in zip(weights, lists.values(), strict=True))
        scale = inverse_root(sums)
        ones = torch.ones_like(scale)
        graphs = [part.graph(ones, ones) for part in lists.values()]

        def smooth(x: torch.Tensor) -> torch.Tensor:
            scaled, total = scale[:, None] * x, 0
            for weight, modality, graph in zip(weights, lists, graphs, strict=True):
                near = scale[:, None] * graph.propagate(scaled, 1, "last")
                fixed = self.original_graphs[modality].propagate(x, 1, "last")
                total = total + weight * ((1 - share) * near + share * fixed)
            return total

        return smooth

    def vectors(self, smooth: Smooth) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D])."""
        users, items = smoothed = self.id_embeddings()
        near = smoothed[1]
        for _ in range(self.config.num_item_layers):
            near = smooth(near)
        if self.config.backbone == "lightgcn":
            final = self.graph.propagate(self.nodes.all(), self.config.num_layers)
            users, items = final.split([self.num_users, self.num_items])
        return users, items + unit(near)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]) on an item graph rebuilt by the current parameters."""
        return self.vectors(self.smoother(self.learn(self.check_hide(hide))))

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the layer-0 tables (users [U, D], items [I, D])."""
        return self.nodes.all().split([self.num_users, self.num_items])

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` and `reg`; the first batch of an epoch rebuilds the item graph, the others reuse it detached."""
        if self.learned is None:
            learned = self.learn()
            self.learned = {m: part.detach() for m, part in learned[0].items()}, learned[1].detach()
        else:
            learned = self.learned
        users, items = self.vectors(self.smoother(learned))
        user, pos, neg = batch.users, batch.pos_items, batch.neg_items
        reg = half_square_reg(batch.configured_size, (users, user), (items, pos), (items, neg))
        return {"bpr": bpr_loss(users, items, user, pos, neg, "logsigmoid"), "reg": self.config.reg_weight * reg}
