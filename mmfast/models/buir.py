"""BUIR: bootstrapped user and item vectors without negatives (Lee et al., SIGIR 2021), as the author code has it.

The variant `id` reads the tables as they are; `nb` propagates them over the user-item graph.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable, linear, xavier
from mmfast.graph import Graph, drop_entries, user_item_graph
from mmfast.models.base import Recommender
from mmfast.ops import cosine_loss
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

DROP_RATE = 0.2  # edges are dropped at DROP_RATE * uniform(0, 1), drawn for every forward (author code)


@MODELS.register("buir")
class BUIR(Recommender):
    """An online encoder with a predictor q learns to predict a target encoder that follows it slowly."""

    over_ranks = "batch"

    class Config(ModelConfig):
        """Options of BUIR; its L2 term is `train.weight_decay` (author code: 1e-4)."""

        variant: Literal["id", "nb"] = "nb"
        """id: the tables themselves; nb: their propagation over the user-item graph."""
        num_layers: int = Field(3, ge=0)
        """Propagation layers of nb."""
        momentum: float = Field(0.995, ge=0, le=1)
        """Share of itself that the target keeps at every step."""
        edge_dropout: bool = False
        """Drop entries of the graph of nb anew for every forward, each encoder its own (drop_flag)."""

    uses_negatives = False

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        identity = config.variant == "id"
        self.nodes = EmbeddingTable(sizes, dim, "xavier_normal" if identity else "xavier_uniform", generator)
        self.register_buffer("target", self.nodes.weight.detach().clone())
        self.predictor = linear(dim, dim, generator)
        if identity:
            xavier(self.predictor.weight.data, "xavier_normal", generator)
            with torch.no_grad():
                self.predictor.bias.normal_(generator=generator)
        else:
            self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes, "sym0"))

    def forward_graph(self) -> Graph:
        """Return the graph of one forward: entries dropped at a rate of its own where that is asked for."""
        if not (self.config.edge_dropout and self.training):
            return self.graph
        return drop_entries(self.graph, DROP_RATE * float(torch.rand(())))

    def encode(self, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the vectors of the nodes `rows` (sorted, unique) by the encoder whose table is given, [R, D]."""
        if self.config.variant == "id":
            return F.embedding(rows, table, sparse=table.requires_grad)
        return self.forward_graph().propagate_rows(table, rows, self.config.num_layers)[0]

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (users [U, 2 D], items [I, 2 D]): [q(u) ; u] and [i ; q(i)], so that both products are added."""
        self.check_hide(hide)
        table = self.nodes.all()
        final = table if self.config.variant == "id" else self.graph.propagate(table, self.config.num_layers)
        users, items = self.users_and_items(final)
        return torch.cat([self.predictor(users), users], 1), torch.cat([items, self.predictor(items)], 1)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the term `bootstrap`: 2 - 2 cos of each online prediction and the other side's target, batch mean."""
        user_rows, user = batch.unique_users
        item_rows, item, _ = batch.unique_items
        rows, cut = torch.cat([user_rows, item_rows + self.num_users]), [len(user_rows), len(item_rows)]
        users, items = self.predictor(self.encode(self.nodes.all(), rows)).split(cut)
        with torch.no_grad():
            target_users, target_items = self.encode(self.target, rows).split(cut)
        toward_items = cosine_loss(users[user], target_items[item])
        toward_users = cosine_loss(items[item], target_users[user])
        return {"bootstrap": 2 * (toward_items + toward_users)}

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the target follow: target <- m target + (1 - m) online, every row."""
        self.target.lerp_(self.nodes.all(), 1 - self.config.momentum)
