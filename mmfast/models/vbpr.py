"""VBPR: ID factors plus projected content (He & McAuley, AAAI 2016), in MMRec's and in CKD's multimodal form.

Departs from the paper: no bias terms, and every modality is used, not images alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable, linear, xavier
from mmfast.models.base import Recommender
from mmfast.models.layers import margins_of_parts, preference
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, frobenius_reg, half_square_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

Parts = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


@MODELS.register("vbpr")
class VBPR(Recommender):
    """s(u, i) = p_u . [q_i ; z_i], z_i projected from the item's features; features stay frozen."""

    step_tables = 4.0
    over_ranks = "batch"

    class Config(ModelConfig):
        """Options of VBPR."""

        reg_weight: float = Field(0.1, ge=0)
        """Weight of the penalty; MMRec's grid is 2, 1, 1e-1 .. 1e-5, CKD's default 1e-5."""
        fusion: Literal["concat", "channels"] = "concat"
        """concat: one projection of all features joined, text first (MMRec); channels: one per modality (CKD)."""
        bpr: Literal["eps", "logsigmoid"] | None = None
        """BPR numerics; None takes the reference's own: eps for concat, logsigmoid for channels."""
        reg: Literal["frobenius", "half_square"] | None = None
        """R-FRO or R-HALF; None takes the reference's own: frobenius for concat, half_square for channels."""

    late_fusion = True

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        dim, channels = config.embedding_dim, config.fusion == "channels"
        self.items = EmbeddingTable([self.num_items], dim, "xavier_uniform", generator)
        dims = {m: self.item_features(m).feature_dim for m in self.modalities}
        if channels:
            self.projections = NamedModules({m: linear(dims[m], dim, generator) for m in self.modalities})
            names = ["id", *self.modalities]
            self.users = NamedModules(
                {n: EmbeddingTable([self.num_users], dim, "xavier_uniform", generator) for n in names}
            )
        else:
            self.projection = nn.Linear(sum(dims.values()), dim)
            xavier(self.projection.weight.data, "xavier_normal", generator)
            nn.init.zeros_(self.projection.bias)
            self.users = EmbeddingTable([self.num_users], 2 * dim, "xavier_uniform", generator)

    def content(self, rows: torch.Tensor | None, hide: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the projected content of items `rows` (None: all) by modality, [R, D] each, without the bias."""
        channels = self.config.fusion == "channels"
        dims = [self.item_features(m).feature_dim for m in self.modalities]
        weights = (
            [self.projections[m].weight for m in self.modalities]
            if channels
            else [part.contiguous() for part in self.projection.weight.split(dims, dim=1)]
        )
        parts = {}
        for modality, weight in zip(self.modalities, weights, strict=True):
            source = self.item_features(modality, hide)
            everywhere = partial(F.linear, weight=weight)
            parts[modality] = source.through(everywhere) if rows is None else source.project(rows, weight)
        return parts

    def user_preference(self, name: str, rows: torch.Tensor | None, hide: Collection[str]) -> torch.Tensor:
        """Return the user channel `name` at `rows` (None: all); the mean row everywhere when `name` is in `hide`."""
        return preference(self.users[name], name in hide, rows)

    def parts(self, user_rows: torch.Tensor | None, item_rows: torch.Tensor | None, hide: Collection[str]) -> Parts:
        """Return user and item vectors at the given rows (None: all) by "id" and modality, biases left out."""
        ids = self.items.all() if item_rows is None else self.items(item_rows)
        if self.config.fusion == "channels":
            users = {n: self.user_preference(n, user_rows, hide) for n in ("id", *self.modalities)}
        else:
            both = self.users.all() if user_rows is None else self.users(user_rows)
            of_id, of_content = both.split(self.config.embedding_dim, dim=1)
            users = {"id": of_id, **dict.fromkeys(self.modalities, of_content)}
        return users, {"id": ids, **self.content(item_rows, hide)}

    def vectors(self, parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
        """Return user and item vectors [R, W] of their parts."""
        users, items = parts
        if self.config.fusion == "channels":
            content = [items[m] + self.projections[m].bias for m in self.modalities]
            return torch.cat(list(users.values()), dim=1), torch.cat([items["id"], *content], dim=1)
        content = sum(items[m] for m in self.modalities) + self.projection.bias
        return torch.cat([users["id"], users[self.modalities[0]]], dim=1), torch.cat([items["id"], content], dim=1)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors (users [U, W], items [I, W]); W is 2 D for concat and (1 + M) D for channels."""
        return self.vectors(self.parts(None, None, self.check_hide(hide)))

    def margins(self, batch: Batch, hides: Sequence[Collection[str]]) -> torch.Tensor:
        """Return the margins of the triples with each of `hides` hidden, from one pass: a margin is a sum of parts."""
        user_rows, item_rows, triples = batch.unique_triples
        parts = self.once("parts", lambda: self.parts(user_rows, item_rows, self.masked))
        return margins_of_parts(*parts, triples, hides)

    def modality_parameters(self, modality: str) -> list[tuple[nn.Parameter, tuple[slice, ...]]]:
        """Return the parameters of one modality; of the one projection of concat, its columns."""
        own = super().modality_parameters(modality)
        if self.config.fusion == "channels":
            return own
        before = self.modalities[: self.modalities.index(modality)]
        start = sum(self.item_features(m).feature_dim for m in before)
        columns = slice(start, start + self.item_features(modality).feature_dim)
        return [*own, (self.projection.weight, (slice(None), columns))]

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ID parts (users [U, D], items [I, D])."""
        users = self.users["id"].all() if self.config.fusion == "channels" else self.users.all()
        return users[:, : self.config.embedding_dim], self.items.all()

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms `bpr` and `reg`; the penalty covers whole vectors, projected content included."""
        channels = self.config.fusion == "channels"
        user_rows, user = batch.unique_users
        item_rows, pos, neg = batch.unique_items
        parts = self.once("parts", lambda: self.parts(user_rows, item_rows, self.masked))
        users, items = self.vectors(parts)
        gathered = ((users, user), (items, pos), (items, neg))
        if (self.config.reg or ("half_square" if channels else "frobenius")) == "frobenius":
            reg = frobenius_reg(*gathered)
        else:
            reg = half_square_reg(batch.configured_size, *gathered)
        kind = self.config.bpr or ("logsigmoid" if channels else "eps")
        return {"bpr": bpr_loss(users, items, user, pos, neg, kind), "reg": self.config.reg_weight * reg}
