"""MGCN: behaviour-gated content views on item graphs beside a behaviour view (Yu et al., MM 2023), as released."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.dataset_graphs import cosine_graphs
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, user_item_block, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import Query, Rows, attend, propagated, two_view_loss, users_beside_items
from mmfast.models.named import NamedModules
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("mgcn")
class MGCN(Recommender):
    """Final = LightGCN mean + side, the attention of gated item IDs smoothed over each modality's item graph."""

    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of MGCN; the released code decays the rate: `train.lr_decay=[0.96, 50]`."""

        num_layers: int = Field(2, ge=0)
        """Propagation layers on the user-item graph (n_ui_layers)."""
        num_item_layers: int = Field(1, ge=0)
        """Products with the item graphs (n_layers)."""
        k: int = Field(10, ge=1)
        """Neighbours per item, itself included."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of R-HALF on final vectors."""
        cl_weight: float = Field(0.01, ge=0)
        """Weight of the contrast of side and behaviour (cl_loss); the grid is 0.001, 0.01, 0.1."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the contrast (fixed in the code, whose `temperature` is read by nothing)."""
        train_features: bool = True
        """Train the raw features (released code); False trains the projections alone."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=config.train_features)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        self.nodes = EmbeddingTable(sizes, dim, "xavier_uniform", generator)

        def per_modality(in_dim: int | None = None) -> NamedModules:
            return NamedModules(
                {m: linear(in_dim or self.item_features(m).feature_dim, dim, generator) for m in self.modalities}
            )

        self.projections = per_modality()
        self.gates, self.preference_gates = per_modality(dim), per_modality(dim)
        self.query = Query(dim, 1, generator)
        self.item_graphs = NamedModules(cosine_graphs(dataset, self.modalities, config.k))
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2), normalised without epsilon."""
        edges = self.interactions(graph)
        super().set_interaction_graph(user_item_graph(*edges, "sym0"))
        self.block = user_item_block(*edges, "sym0")

    def view(self, modality: str, rows: Rows | None, states: tuple[bool, ...]) -> Sequence[torch.Tensor]:
        """Return a modality's view at `rows`, [R, D] by state: gated item IDs on its graph, then users from them."""
        content = self.contents(modality, self.projections[modality], states)
        items = self.id_embeddings()[1][:, None] * torch.sigmoid(self.gates[modality](content))
        items = self.item_graphs[modality].propagate(items, self.config.num_item_layers, "last")
        return users_beside_items(self.block, items, rows).unbind(1)

    def behaviour_and_side(self, hide: frozenset[str], rows: Rows | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the behaviour view and the side view, [R, D] each, of `rows` (None: all); final vectors add them."""
        behaviour = self.once(
            "behaviour", lambda: propagated(self.graph, self.nodes.all(), self.config.num_layers, self.num_users, rows)
        )
        views = {m: self.in_state("view", m, hide, partial(self.view, m, rows)) for m in self.modalities}
        common = attend(self.query, list(views.values()))
        gated = [torch.sigmoid(self.preference_gates[m](behaviour)) * (view - common) for m, view in views.items()]
        return behaviour, (sum(gated) + common) / (len(views) + 1)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]); a hidden modality keeps its item graph."""
        behaviour, side = self.behaviour_and_side(self.check_hide(hide))
        return self.users_and_items(behaviour + side)

    def vectors_at(self, hide: frozenset[str], rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors of `rows`, (users [R, D], items [S, D])."""
        return sum(self.behaviour_and_side(hide, rows)).split([len(part) for part in rows])

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr`, `reg` and the contrasts `cl_items` and `cl_users` of side against behaviour."""
        rows, compact = self.step_rows(batch)
        return two_view_loss(self.config, compact, *self.behaviour_and_side(self.masked, rows))
