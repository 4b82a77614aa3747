"""MICRO: an item graph per modality, fused by attention and a contrast (Zhang et al., TKDE 2023), as the author code.

Like LATTICE it rebuilds its learned graphs every epoch; they keep k entries a row instead of I x I.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmfast.dataset_graphs import cosine_graphs
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import Query, attend, drawn, ranking_terms, unit
from mmfast.models.learned_graph import LearnedGraphConfig, detached, inverse_root, similarities
from mmfast.models.named import NamedModules
from mmfast.ops import info_nce
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("micro")
class MICRO(Recommender):
    """item = collaborative vector + n(h), h the attention of S_m^L Q over modalities m."""

    over_ranks = "batch"

    class Config(LearnedGraphConfig):
        """Options of MICRO; the author code decays the rate: `train.lr_decay=[0.96, 50]`."""

        reg_weight: float = Field(1e-5, ge=0)
        """Weight of R-HALF on final vectors."""
        cl_weight: float = Field(0.03, ge=0)
        """Weight of the contrast of each modality with the fused vectors (loss_ratio)."""
        temperature: float = Field(0.5, gt=0)
        """Temperature of the contrast (fixed in the code)."""
        cl_items: int | None = Field(None, ge=2)
        """Items drawn per step for the contrast, ours; None: all of them, as published, I ** 2 products a step."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=config.train_features)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        self.nodes = EmbeddingTable(sizes, dim, "xavier_uniform", generator)
        self.projections = NamedModules(
            {m: linear(self.item_features(m).feature_dim, dim, generator) for m in self.modalities}
        )
        self.query = Query(dim, 1, generator)
        self.original_graphs = NamedModules(cosine_graphs(dataset, self.modalities, config.k))
        self.learned: NamedModules | None = None  # the graphs of this epoch's first batch
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2): self loops are added and rows divided by their sums."""
        super().set_interaction_graph(user_item_graph(*self.interactions(graph), "rw"))

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Let the first batch of the epoch rebuild the item graphs, with a gradient."""
        self.learned = None

    def learn(self, hide: frozenset[str] = frozenset()) -> NamedModules:
        """Return the learned graphs by modality, with a gradient, each normalised on its own (K-COS)."""
        graphs = {}
        for modality, projection in self.projections.items():
            near = similarities(self.item_features(modality, hide).through(projection), self.config.k)
            graphs[modality] = near.graph(inverse_root(near.row_sums()))
        return NamedModules(graphs)

    def views(self, learned: NamedModules) -> dict[str, torch.Tensor]:
        """Return S_m^L Q by modality, [I, D] each."""
        share, views = self.config.original_weight, {}
        for modality, near in learned.items():
            fixed, h = self.original_graphs[modality], self.id_embeddings()[1]
            for _ in range(self.config.num_item_layers):
                h = (1 - share) * near.propagate(h, 1, "last") + share * fixed.propagate(h, 1, "last")
            views[modality] = h
        return views

    def vectors(self, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D])."""
        users, items = self.id_embeddings()
        if self.config.backbone == "lightgcn":
            final = self.graph.propagate(self.nodes.all(), self.config.num_layers)
            users, items = self.users_and_items(final)
        return users, items + unit(fused)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]) on item graphs rebuilt by the current parameters."""
        views = self.views(self.learn(self.check_hide(hide)))
        return self.vectors(attend(self.query, list(views.values())))

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr`, `reg` and a contrast `cl_*` per modality; the first batch of an epoch rebuilds the graphs."""
        learned = self.learned
        if learned is None:
            learned = self.learn()
            self.learned = NamedModules({m: detached(graph) for m, graph in learned.items()})
        views = self.views(learned)
        fused = attend(self.query, list(views.values()))
        users, items = self.vectors(fused)
        terms = ranking_terms(self.config, batch, users, items)
        rows = drawn(self.config.cl_items, self.num_items, fused.device)
        for modality, view in views.items():
            contrast = info_nce(view[rows], fused[rows], self.config.temperature, intra=True)
            terms[f"cl_{modality}"] = self.config.cl_weight * contrast
        return terms
