"""BPR-MF: matrix factorisation trained pairwise (Rendle et al., UAI 2009), as MMRec trains it.

Departs from the paper: the penalty is un-squared Frobenius norms divided by the batch (R-FRO) and there are no biases.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable
from mmfast.models.base import Recommender
from mmfast.ops import bpr_loss, frobenius_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("bpr")
class BPR(Recommender):
    """s(u, i) = p_u . q_i"""

    step_tables = 4.0
    over_ranks = "batch"

    class Config(ModelConfig):
        """Options of BPR-MF."""

        reg_weight: float = Field(0.1, ge=0)
        """Weight of R-FRO; MMRec's grid is 2, 1, 1e-1 .. 1e-5."""
        bpr: Literal["eps", "logsigmoid"] = "eps"
        """BPR numerics: eps is -ln(1e-10 + sigmoid), logsigmoid saturates instead of losing its gradient."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.users = EmbeddingTable([self.num_users], config.embedding_dim, "xavier_normal", generator)
        self.items = EmbeddingTable([self.num_items], config.embedding_dim, "xavier_normal", generator)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two tables (users [U, D], items [I, D])."""
        self.check_hide(hide)
        return self.users.all(), self.items.all()

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two tables (users [U, D], items [I, D])."""
        return self.users.all(), self.items.all()

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms `bpr` and `reg` (reg_weight * R-FRO of the batch rows)."""
        user_rows, user = batch.unique_users
        item_rows, pos, neg = batch.unique_items
        users, items = self.users(user_rows), self.items(item_rows)
        reg = frobenius_reg((users, user), (items, pos), (items, neg))
        return {
            "bpr": bpr_loss(users, items, user, pos, neg, self.config.bpr),
            "reg": self.config.reg_weight * reg,
        }
