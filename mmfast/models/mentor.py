"""MENTOR: a graph encoder per modality, aligned with IDs, and two self-supervised tasks (Xu et al., AAAI 2025).

Of the released tasks only alignment trains the ranking encoders: the noisy views come from encoders of their own, and
the masking loss has no gradient. `views` and `masking` choose between that and the paper's reading.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.dataset_graphs import mean_graph, mixing_weights
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import drawn, leaky, unit
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, cosine_loss, info_nce, mean_square_reg, moment_alignment
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

ID = "&"  # name of the ID encoder beside the modalities'
NOISE = 0.1


class Encoder(nn.Module):
    """n([preference ; two layers of the input]), its two hops added to it."""

    def __init__(self, num_users: int, in_dim: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.preference = EmbeddingTable([num_users], dim, "xavier_normal", generator)
        self.first = linear(in_dim, 4 * dim, generator)
        self.second = linear(4 * dim, dim, generator)

    def start(self, hidden: torch.Tensor, preference: torch.Tensor | None = None) -> torch.Tensor:
        """Return the vectors before any hop, [N, D], from the items' first layer [I, 4 D]."""
        users = self.preference.all() if preference is None else preference
        return unit(torch.cat([users, self.second(leaky(hidden))]))


@MODELS.register("mentor")
class MENTOR(Recommender):
    """Users and items are their modality vectors side by side, items smoothed over a frozen item graph."""

    step_tables = 44.0  # the vectors of six more encoders and their noise
    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of MENTOR; the released rate is `train.learning_rate=1e-4`, the monitor recall@10."""

        num_item_layers: int = Field(1, ge=0)
        """Products with the item graph."""
        k: int = Field(10, ge=1)
        """Neighbours per item, itself included."""
        image_weight: float = Field(0.1, ge=0, le=1)
        """Weight of the image graph; the others share the rest."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the mean squares of the batch's preferences and of the modality weights."""
        align_weight: float = Field(0.1, ge=0)
        """Weight of the alignment of means and variances."""
        cl_weight: float = Field(1e-3, ge=0)
        """Weight of the contrast of two noisy views over all nodes (mask_weight_g); the grid is 1e-4, 1e-3."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of that contrast; the grid is 0.2, 0.4, 0.6."""
        cl_nodes: int | None = Field(None, ge=2)
        """Users and items drawn per step for that contrast, ours; None: all, as published, U ** 2 + I ** 2 products."""
        masking_weight: float = Field(1.5, ge=0)
        """Weight of the feature-masking loss (mask_weight_f)."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Dropout of the feature-masking loss."""
        views: Literal["own", "main", "none"] = "own"
        """own: noisy views by four more encoders (released code), which trains the modality weights alone; main: by the
        ranking encoders (paper); none: no contrast."""
        masking: Literal["none", "constant", "trained"] = "none"
        """none: leave the masking loss out; constant: add its value without gradient (released code); trained: the
        paper."""
        bpr: Literal["log2", "logsigmoid"] = "log2"
        """log2 is the released code's, 1.44 times the natural logarithm."""
        stale_eval: bool = False
        """Rank by the vectors of the last training step, as the released code does."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        dim, sizes = config.embedding_dim, [self.num_users, self.num_items]
        dims = {m: self.item_features(m).feature_dim for m in self.modalities}
        self.ids = EmbeddingTable([self.num_items], dim, "xavier_normal", generator)
        encoders = {name: Encoder(sizes[0], size, dim, generator) for name, size in {**dims, ID: dim}.items()}
        if config.views == "own":
            for view in (1, 2):
                encoders |= {f"{m}{ID}{view}": Encoder(sizes[0], dims[m], dim, generator) for m in self.modalities}
        self.encoders = NamedModules(encoders)
        start = torch.rand(self.num_users, len(dims), generator=generator)
        self.modality_weights = nn.Parameter(torch.softmax(start, dim=1))
        if config.masking != "none":
            self.mask_map = linear(len(dims) * dim, len(dims) * dim, generator)
        self.item_graph = mean_graph(dataset, mixing_weights(self.modalities, config.image_weight), config.k)
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))
        self.add_memory(len(dims) * dim)

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2), normalised without epsilon."""
        super().set_interaction_graph(user_item_graph(*self.interactions(graph), "sym0"))

    def noise(self, name: str, hop: int, like: torch.Tensor) -> torch.Tensor:
        """Return uniform numbers like a table [N, D], for one hop of the view `name`."""
        return torch.rand_like(like)

    def encode(self, name: str, hide: frozenset[str], view: int = 0) -> torch.Tensor:
        """Return the vectors of a modality or of IDs, [N, D]; view 1 or 2 adds noise after each hop."""
        key = f"{name}{ID}{view}" if view and self.config.views == "own" else name
        encoder = self.encoders[key]
        first, preference = encoder.first, encoder.preference.all()
        hidden = first(self.ids.all()) if name == ID else self.item_features(name, hide).through(first)
        x = encoder.start(hidden, preference.mean(0).expand_as(preference) if name in hide else None)
        if not view:
            return self.graph.propagate(x, 2, "sum")
        total = h = x
        for hop in (1, 2):
            h = self.graph.propagate(h, 1, "last")
            h = h + NOISE * torch.sign(h) * unit(self.noise(f"{name}_view{view}", hop, h))
            total = total + h
        return total

    def side_by_side(self, parts: list[torch.Tensor], weighted: bool) -> torch.Tensor:
        """Return node vectors [N, M D] of parts [N, D]: users weighted or not, items smoothed over the item graph."""
        users = [part[: self.num_users] for part in parts]
        if weighted:
            users = [self.modality_weights[:, m : m + 1] * part for m, part in enumerate(users)]
        items = torch.cat([part[self.num_users :] for part in parts], dim=1)
        items = items + self.item_graph.propagate(items, self.config.num_item_layers, "last")
        return torch.cat([torch.cat(users, dim=1), items])

    def main(self, hide: frozenset[str], view: int = 0) -> torch.Tensor:
        """Return the ranking vectors of all nodes, [N, M D], or a noisy view of them."""
        parts = [self.encode(m, hide, view) if view else self.vectors(m, hide) for m in self.images_first]
        return self.side_by_side(parts, weighted=True)

    def vectors(self, modality: str, hide: frozenset[str]) -> torch.Tensor:
        """Return the ranking vectors of a modality, [N, D], before the items are smoothed."""
        own = frozenset([modality])
        return self.in_state(
            "vectors", modality, hide, lambda states: [self.encode(modality, own if s else frozenset()) for s in states]
        )

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, M D], items [I, M D])."""
        return self.remembered(hide) or self.users_and_items(self.main(self.check_hide(hide)))

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the preference and item table of the ID encoder (users [U, D], items [I, D])."""
        return self.encoders[ID].preference.all(), self.ids.all()

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr`, `reg`, `align`, and `cl`, `masking` where they are asked for; weights applied."""
        config, sizes = self.config, [self.num_users, self.num_items]
        vectors = {m: self.vectors(m, self.masked) for m in self.images_first} | {ID: self.encode(ID, self.masked)}
        main = self.side_by_side([vectors[m] for m in self.images_first], weighted=True)
        users, items = main.split(sizes)
        self.remember(users, items)
        terms = {
            "bpr": bpr_loss(users, items, batch.users, batch.pos_items, batch.neg_items, config.bpr),
            "reg": config.reg_weight * self.penalty(batch),
        }
        if config.align_weight:
            terms["align"] = config.align_weight * self.alignment(main, vectors)
        if config.views != "none" and config.cl_weight:
            pairs = zip(*(self.main(self.masked, view).split(sizes) for view in (1, 2)), strict=True)
            terms["cl"] = config.cl_weight * sum(self.contrast(*pair) for pair in pairs)
        if config.masking != "none":
            with torch.set_grad_enabled(config.masking == "trained"):
                terms["masking"] = config.masking_weight * self.masking(users, items)
        return terms

    def contrast(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        """Return the contrast of two views [N, M D] of the users, or of the items."""
        rows = drawn(self.config.cl_nodes, len(one), one.device)
        return info_nce(one[rows], two[rows], self.config.temperature)

    def penalty(self, batch: Batch) -> torch.Tensor:
        """Return the mean squares of the batch users' preferences and of the modality weights, added up."""
        tables = [self.encoders[m].preference.all() for m in self.images_first]
        return mean_square_reg((self.modality_weights, None), *((table, batch.users) for table in tables))

    def alignment(self, main: torch.Tensor, vectors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum over pairs of tables of |difference of variances| + |difference of means|."""
        count = len(self.images_first)
        alone = [self.side_by_side([vectors[name]] * count, weighted=False) for name in (ID, *self.images_first)]
        return moment_alignment(main, *alone)

    def dropped(self, name: str, table: torch.Tensor) -> torch.Tensor:
        """Return the table of "user" or "item" vectors with entries dropped."""
        return F.dropout(table, self.config.dropout, self.training)

    def masking_pair(self, name: str, table: torch.Tensor) -> torch.Tensor:
        """Return 1 - mean cos(dropped table, its linear map)."""
        return cosine_loss(self.dropped(name, table), self.mask_map(table))

    def masking(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Return the feature-masking loss of users and items."""
        return self.masking_pair("user", users) + self.masking_pair("item", items)
