"""DeepStyle: content less its category is style (Liu, Wu and Wang, SIGIR 2017), with one user vector for everything.

Departs from the paper: every modality has a map, and the penalty is R-HALF on the vectors of the batch, so that it
compares with the other backbones. `fusion: channels` is our own form that keeps modalities apart.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.data.categories import item_categories
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.models.base import Recommender
from mmfast.models.layers import margins_of_parts, preference, xavier_linear
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, half_square_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

Parts = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


@MODELS.register("deepstyle")
class DeepStyle(Recommender):
    """s(u, i) = p_u . (q_i - l_c(i) + sum over modalities of E_m x_i)"""

    step_tables = 4.0
    over_ranks = "batch"

    class Config(ModelConfig):
        """Options of DeepStyle."""

        reg_weight: float = Field(1e-3, ge=0)
        """Weight of R-HALF; the grid is 1e-5, 1e-4, 1e-3, 1e-2."""
        fusion: Literal["sum", "channels"] = "sum"
        """sum: one user vector (the paper's); channels: [q - l ; W_m x + b ...] against a user vector for each."""
        category_column: str | None = None
        """Column of the item table that names an item's category; None: `category`, or one for all (which cancels)."""

    late_fusion = True

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        dim, channels = config.embedding_dim, config.fusion == "channels"
        dims = {m: self.item_features(m).feature_dim for m in self.modalities}
        categories = item_categories(dataset, config.category_column)
        self.register_buffer("category", torch.from_numpy(categories), persistent=False)
        self.items = EmbeddingTable([self.num_items], dim, "xavier_uniform", generator)
        self.categories = EmbeddingTable([int(categories.max()) + 1], dim, "xavier_uniform", generator)
        names = ["id", *self.modalities] if channels else ["id"]
        self.users = NamedModules(
            {n: EmbeddingTable([self.num_users], dim, "xavier_uniform", generator) for n in names}
        )
        self.projections = NamedModules(
            {
                m: linear(size, dim, generator)
                if channels
                else xavier_linear(size, dim, "xavier_uniform", generator, bias=False)
                for m, size in dims.items()
            }
        )

    def user_preference(self, name: str, rows: torch.Tensor | None, hide: Collection[str]) -> torch.Tensor:
        """Return the user channel `name` at `rows` (None: all); the mean row everywhere when `name` is in `hide`."""
        return preference(self.users[name], name in hide, rows)

    def parts(self, user_rows: torch.Tensor | None, item_rows: torch.Tensor | None, hide: Collection[str]) -> Parts:
        """Return user and item vectors at the given rows (None: all) by "id" and modality, [R, D] each."""
        users = {name: self.user_preference(name, user_rows, hide) for name in self.users}
        category = self.category if item_rows is None else self.category[item_rows]
        ids = self.items.all() if item_rows is None else self.items(item_rows)
        items = {"id": ids - self.categories.all()[category]}
        for modality, projection in self.projections.items():
            source = self.item_features(modality, hide)
            if item_rows is None:
                items[modality] = source.through(projection)
            else:
                content = source.project(item_rows, projection.weight)
                items[modality] = content if projection.bias is None else content + projection.bias
        return {**dict.fromkeys(items, users["id"]), **users}, items

    def vectors(self, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
        """Return user and item vectors [R, W] of their parts."""
        users, items = (list(part.values()) for part in parts)
        if self.config.fusion == "channels":
            return torch.cat(users, dim=1), torch.cat(items, dim=1)
        return users[0], sum(items)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors (users [U, W], items [I, W]); W is D for sum and (1 + M) D for channels."""
        return self.vectors(self.parts(None, None, self.check_hide(hide)))

    def margins(self, batch: Batch, hides: Sequence[Collection[str]]) -> torch.Tensor:
        """Return the margins of the triples with each of `hides` hidden, from one pass: a margin is a sum of parts."""
        user_rows, item_rows, triples = batch.unique_triples
        parts = self.once("parts", lambda: self.parts(user_rows, item_rows, self.masked))
        return margins_of_parts(*parts, triples, hides)

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ID tables (users [U, D], items [I, D])."""
        return self.users["id"].all(), self.items.all()

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms `bpr` (log-sigmoid) and `reg` (R-HALF of whole vectors)."""
        user_rows, user = batch.unique_users
        item_rows, pos, neg = batch.unique_items
        users, items = self.vectors(self.once("parts", lambda: self.parts(user_rows, item_rows, self.masked)))
        reg = half_square_reg(batch.configured_size, (users, user), (items, pos), (items, neg))
        return {
            "bpr": bpr_loss(users, items, user, pos, neg, "logsigmoid"),
            "reg": self.config.reg_weight * reg,
        }
