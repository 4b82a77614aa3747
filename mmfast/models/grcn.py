"""GRCN: user-item edges weighted by multimodal affinity, then IDs propagated over them (Wei et al., MM 2020).

Follows MMRec, whose routing does nothing: its messages run from users to items, so the user rows it reads are zero.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable
from mmfast.graph import Graph, edge_graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import Rows, chosen, leaky, unit, xavier_linear
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, edge_attention, edge_gather, mean_square_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("grcn")
class GRCN(Recommender):
    """Vectors are the refined ID part beside a content part for each modality."""

    over_ranks = "batch"

    class Config(ModelConfig):
        """Options of GRCN."""

        num_routing: int = Field(3, ge=0)
        """Rounds of routing (n_layers); without effect in the released reading."""
        routing: Literal["noop", "paper"] = "noop"
        """noop: the released code; paper: user preferences take up the items of the user in each round."""
        pruning: Literal["hard", "soft"] = "hard"
        """hard: weights below 0 become 0 (MMRec); soft: they stay (the author's example commands)."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the penalty; the grid is 1e-1 .. 1e-5."""
        stale_eval: bool = False
        """Rank by the vectors of the last training step, as the released code does."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        dim, nodes = config.embedding_dim, self.num_users + self.num_items
        self.nodes = EmbeddingTable([nodes], dim, "xavier_normal", generator)
        self.preferences = NamedModules(
            {m: EmbeddingTable([self.num_users], dim, "xavier_normal", generator) for m in self.images_first}
        )
        self.projections = NamedModules(
            {
                m: xavier_linear(self.item_features(m).feature_dim, dim, "xavier_normal", generator)
                for m in self.images_first
            }
        )
        self.confidence = EmbeddingTable([nodes], len(self.modalities), "xavier_normal", generator)
        self.set_interaction_graph(
            user_item_graph(dataset.train.users, dataset.train.items, self.num_users, self.num_items)
        )
        self.add_memory(dim * (1 + len(self.modalities)))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2); they have no normalisation."""
        users, items, num_users, num_items = self.interactions(graph)
        nodes, num_nodes = items + num_users, num_users + num_items
        both = np.concatenate([users, nodes]), np.concatenate([nodes, users])
        super().set_interaction_graph(edge_graph(*both, num_nodes, num_nodes))
        self.to_users = edge_graph(users, items, num_users, num_items)

    def content(self, modality: str, states: tuple[bool, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return by state a modality's content vectors [N, D] and the attention of every entry of the graph [E]."""
        items = unit(leaky(self.contents(modality, self.projections[modality], states))).unbind(1)
        users = [unit(self.user_preference(modality, (modality,) if hidden else ())) for hidden in states]
        return [self.route(*pair) for pair in zip(users, items, strict=True)]

    def route(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return content vectors and attention of user preferences [U, D] and item contents [I, D]."""
        for _ in range(self.config.num_routing if self.config.routing == "paper" else 0):
            users = unit(users + edge_attention(self.to_users.incoming(), users, items, items)[0])
        x = torch.cat([users, items])
        neighbours, attention = edge_attention(self.graph.incoming(), x, x, x)
        return x + neighbours, attention

    def representation(self, hide: frozenset[str], rows: Rows | None = None) -> torch.Tensor:
        """Return the vectors of `rows` (None: all nodes), [R, (1 + M) D]: IDs, then the modalities."""
        contents, attentions = zip(
            *(self.in_state("content", m, hide, partial(self.content, m)) for m in self.projections), strict=True
        )
        confidence = edge_gather(self.graph.incoming(), self.confidence.all())  # of the node a message comes from
        weights = (torch.stack(attentions, dim=1) * confidence).amax(1)
        if self.config.pruning == "hard":
            weights = torch.relu(weights)
        ids = self.graph.propagate(unit(self.nodes.all()), 2, "sum", values=weights)
        return torch.cat([chosen(table, self.num_users, rows) for table in (ids, *contents)], dim=1)

    def vectors_at(self, hide: frozenset[str], rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors of `rows`, (users [R, (1 + M) D], items [S, (1 + M) D])."""
        return self.representation(hide, rows).split([len(part) for part in rows])

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, (1 + M) D], items [I, (1 + M) D])."""
        return self.remembered(hide) or self.users_and_items(self.representation(self.check_hide(hide)))

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` (-ln sigmoid) and `reg`: mean squares of IDs and preferences."""
        rows, compact = self.step_rows(batch)
        users, items = self.representation(self.masked, rows).split([compact.num_users, compact.num_items])
        self.remember(users, items)
        bpr = bpr_loss(users, items, compact.users, compact.pos_items, compact.neg_items, "raw")
        return {"bpr": bpr, "reg": self.config.reg_weight * self.penalty(batch)}

    def penalty(self, batch: Batch) -> torch.Tensor:
        """Return the mean squares of the batch's IDs, of one whole preference table and of the batch's preferences."""
        users, items = self.id_embeddings()
        tables = [table.all() for _, table in self.preferences.items()]
        whole = (tables[0], None)  # images; MMRec adds it on top of the author's terms
        pairs = (users, batch.users), (items, torch.cat([batch.pos_items, batch.neg_items])), whole
        return mean_square_reg(*pairs, *((table, batch.users) for table in tables))
