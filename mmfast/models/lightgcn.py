"""LightGCN: linear propagation of ID embeddings on the user-item graph (He et al., SIGIR 2020), as MMRec trains it.

Departs from the paper: the penalty on layer-0 rows is R-FRO, un-squared norms divided by the batch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable
from mmfast.graph import user_item_graph
from mmfast.models.base import Recommender
from mmfast.ops import bpr_loss, frobenius_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("lightgcn")
class LightGCN(Recommender):
    """Vectors are the mean over layers 0..L of G-SYM products of the ID table."""

    step_tables = 4.0
    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of LightGCN."""

        num_layers: int = Field(2, ge=0)
        """Propagation layers L; MMRec's grid is 1, 2, 3, 4."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of R-FRO on layer-0 rows; MMRec's grid is 1e-2 .. 1e-6."""
        bpr: Literal["eps", "logsigmoid"] = "eps"
        """BPR numerics: eps is -ln(1e-10 + sigmoid), logsigmoid saturates instead of losing its gradient."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        sizes = [self.num_users, self.num_items]
        self.nodes = EmbeddingTable(sizes, config.embedding_dim, "xavier_uniform", generator)
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return propagated vectors (users [U, D], items [I, D])."""
        self.check_hide(hide)
        final = self.graph.propagate(self.nodes.all(), self.config.num_layers)
        return self.users_and_items(final)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms `bpr` and `reg` (reg_weight * R-FRO of the layer-0 batch rows)."""
        user_rows, user = batch.unique_users
        item_rows, pos, neg = batch.unique_items
        rows = torch.cat([user_rows, item_rows + self.num_users])
        final, first = self.graph.propagate_rows(self.nodes.all(), rows, self.config.num_layers)
        cut = [len(user_rows), len(item_rows)]
        (users, items), (first_users, first_items) = final.split(cut), first.split(cut)
        reg = frobenius_reg((first_users, user), (first_items, pos), (first_items, neg))
        return {
            "bpr": bpr_loss(users, items, user, pos, neg, self.config.bpr),
            "reg": self.config.reg_weight * reg,
        }
