"""SLMRec: LightGCN per modality with a self-supervised chain of modalities (Tao et al., TMM 2022), as MMRec runs it.

Ranks by the inner product, not by its sigmoid, which is 1 in float32 for all good items and so makes ties.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable
from mmfast.graph import Graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import Rows, propagated, xavier_linear
from mmfast.models.named import NamedModules
from mmfast.ops import batch_rows, info_nce
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

DEGREE_EPS = 1e-8


@MODELS.register("slmrec")
class SLMRec(Recommender):
    """user, item = a linear map of the LightGCN means that start from IDs, from images, from texts."""

    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of SLMRec; MMRec adds `train.weight_decay=1e-4`."""

        num_layers: int = Field(3, ge=0)
        """Propagation layers."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the main loss (fixed in the code)."""
        ssl_temperature: float = Field(0.2, gt=0)
        """Temperature of the chain; the grid is 0.1, 0.2, 0.5, 1.0."""
        ssl_weight: float = Field(0.1, ge=0)
        """Weight of the chain (ssl_alpha); the grid is 0.01, 0.05, 0.1, 0.5, 1.0."""
        stale_eval: bool = False
        """Rank by the vectors of the last training step, as the released code does."""

    uses_negatives = False
    ranking_term = "main"

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        self.nodes = EmbeddingTable(sizes, dim, "xavier_uniform", generator)

        def layer(in_dim: int, out_dim: int) -> torch.nn.Linear:
            return xavier_linear(in_dim, out_dim, "xavier_uniform", generator)

        self.projections = NamedModules({m: layer(self.item_features(m).feature_dim, dim) for m in self.modalities})
        width = (1 + len(self.modalities)) * dim
        self.user_head, self.item_head = layer(width, dim), layer(width, dim)
        # Link m of the chain compares `left` of all before it with `right` of modality m; widths halve after the first.
        chain = self.images_first
        self.left = NamedModules({m: layer(dim, dim if m == chain[0] else max(dim // 2, 1)) for m in chain})
        self.right = NamedModules({m: layer(dim, dim if m == chain[0] else max(dim // 2, 1)) for m in chain})
        self.between = NamedModules({m: layer(dim, dim) for m in chain[1:]})
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))
        self.add_memory(dim)

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2), with 1e-8 added to degrees."""
        super().set_interaction_graph(user_item_graph(*self.interactions(graph), eps=DEGREE_EPS))

    def channels(self, hide: frozenset[str], rows: Rows | None = None) -> torch.Tensor:
        """Return the LightGCN means of `rows` (None: all) [R, 1 + M, D]: of IDs, then of the chain's modalities."""
        ids = self.once(
            "ids", lambda: propagated(self.graph, self.nodes.all(), self.config.num_layers, self.num_users, rows)
        )
        chain = [self.in_state("channel", m, hide, partial(self.channel, m, rows)) for m in self.images_first]
        return torch.stack([ids, *chain], dim=1)

    def channel(self, modality: str, rows: Rows | None, states: tuple[bool, ...]) -> list[torch.Tensor]:
        """Return the LightGCN mean that starts from a modality, [R, D] at `rows` (None: all), by state."""
        means, users = [], self.id_embeddings()[0]
        for hidden in states:  # one after another: side by side they would fall out of the caches
            directions = self.item_features(modality, (modality,) if hidden else ()).directions()
            start = torch.cat([users, self.projections[modality](directions)])
            means.append(propagated(self.graph, start, self.config.num_layers, self.num_users, rows))
        return means

    def fuse(self, channels: torch.Tensor, num_users: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]) of channels [U + I, 1 + M, D]."""
        wide = channels.flatten(1)
        return self.user_head(wide[:num_users]), self.item_head(wide[num_users:])

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D])."""
        return self.remembered(hide) or self.fuse(self.channels(self.check_hide(hide)), self.num_users)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `main`, the in-batch contrast of users and items, and `ssl`, the weighted chain (task FAC)."""
        rows, batch = self.step_rows(batch)
        channels = self.channels(self.masked, rows)
        users, items = self.fuse(channels, batch.num_users)
        self.remember(users, items)
        user, item = batch.users, batch.pos_items
        pair = batch_rows(users.index_select(0, user)), batch_rows(items.index_select(0, item))
        main = info_nce(*pair, self.config.temperature)
        chain = self.chain_loss(batch_rows(channels[batch.num_users :].index_select(0, item)))
        return {"main": main, "ssl": self.config.ssl_weight * chain}

    def chain_loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum over links of the contrast (inner products) of the batch items' channels [B, 1 + M, D]."""
        state, *others = rows.unbind(1)
        total = rows.new_zeros(())
        for number, (modality, row) in enumerate(zip(self.images_first, others, strict=True)):
            if number == 0:
                state = left = self.left[modality](state)
            else:
                state = self.between[modality](state)
                left = self.left[modality](state)
            right = self.right[modality](row)
            total = total + info_nce(left, right, self.config.ssl_temperature, normalize=False)
        return total
