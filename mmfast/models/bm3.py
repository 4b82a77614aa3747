"""BM3: bootstrapped multimodal vectors with dropout views and no negatives (Zhou et al., WWW 2023), as released.

Features act in the loss alone: the ranking vectors come from the ID tables.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable
from mmfast.graph import user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import xavier_linear
from mmfast.models.named import NamedModules
from mmfast.ops import cosine_loss
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("bm3")
class BM3(Recommender):
    """One predictor f for users, items and contents; targets are dropped-out copies without gradient."""

    step_tables = 4.0
    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of BM3."""

        num_layers: int = Field(1, ge=0)
        """Propagation layers; the grid is 1, 2."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of a target's entries that is dropped; the grid is 0.3, 0.5."""
        reg_weight: float = Field(0.1, ge=0)
        """Weight of the norms of all final vectors; the grid is 0.1, 0.01."""
        cl_weight: float = Field(2.0, ge=0)
        """Weight of the content terms."""
        train_features: bool = True
        """Train the raw features (released code); False trains the projections alone."""

    uses_negatives = False
    ranking_term = "rec"
    content_in_scores = False

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=config.train_features)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        self.nodes = EmbeddingTable(sizes, dim, "xavier_uniform", generator)
        self.predictor = xavier_linear(dim, dim, "xavier_normal", generator)
        self.projections = NamedModules(
            {
                m: xavier_linear(self.item_features(m).feature_dim, dim, "xavier_normal", generator)
                for m in self.modalities
            }
        )
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors before the predictor: users the mean over layers, items that plus their table."""
        nodes, _, own = self.nodes_and_parts()
        final = self.once("final", lambda: self.graph.propagate(nodes, self.config.num_layers))
        users, items = self.users_and_items(final)
        return users, items + own

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return predicted vectors (users [U, D], items [I, D]); no feature is in them, so `hide` changes nothing."""
        self.check_hide(hide)
        users, items = self.vectors()
        return self.predictor(users), self.predictor(items)

    def target(self, name: str, online: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the target of `online` [R, D], the table `name` at `rows`: dropped out, without gradient."""
        return F.dropout(online.detach(), self.config.dropout, self.training)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `rec`, `reg`, and for each modality `align_*` and `intra_*`, weights applied."""
        user_rows, user = batch.unique_users
        item_rows, item, _ = batch.unique_items
        all_users, all_items = self.vectors()
        users, items = all_users[user_rows], all_items[item_rows]
        user_target = self.target("user", users, user_rows)[user]
        item_target = self.target("item", items, item_rows)[item]
        predicted_items = self.predictor(items)[item]
        norms = torch.linalg.matrix_norm(all_users) + torch.linalg.matrix_norm(all_items)
        terms = {
            "rec": cosine_loss(self.predictor(users)[user], item_target) + cosine_loss(predicted_items, user_target),
            "reg": self.config.reg_weight * norms / self.num_items,
        }
        for modality, projection in self.projections.items():
            content = self.item_features(modality).project(item_rows, projection.weight) + projection.bias
            target = self.target(modality, content, item_rows)[item]
            predicted = self.predictor(content)[item]
            terms[f"align_{modality}"] = self.config.cl_weight * cosine_loss(predicted, item_target)
            terms[f"intra_{modality}"] = self.config.cl_weight * cosine_loss(predicted, target)
        return terms
