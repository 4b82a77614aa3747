"""SLMRec: LightGCN per modality with a self-supervised chain of modalities (Tao et al., TMM 2022), as MMRec runs it.

Ranks by the inner product, not by its sigmoid, which is 1 in float32 for all good items and so makes ties.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable
from mmfast.graph import Graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import xavier_linear
from mmfast.models.named import NamedModules
from mmfast.ops import info_nce
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

DEGREE_EPS = 1e-8


@MODELS.register("slmrec")
class SLMRec(Recommender):
    """user, item = a linear map of the LightGCN means that start from IDs, from images, from texts."""

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

    def channels(self, hide: frozenset[str]) -> dict[str, torch.Tensor]:
        """Return the LightGCN means [N, D] by channel: "" for IDs and one for each modality of the chain."""
        ids = self.once("ids", lambda: self.graph.propagate(self.nodes.all(), self.config.num_layers))
        return {"": ids} | {m: self.in_state("channel", m, hide, partial(self.channel, m)) for m in self.images_first}

    def channel(self, modality: str, states: tuple[bool, ...]) -> Sequence[torch.Tensor]:
        """Return the LightGCN mean [N, D] that starts from a modality, by state."""
        sources = [self.item_features(modality, (modality,) if hidden else ()) for hidden in states]
        items = torch.stack([self.projections[modality](source.directions()) for source in sources], dim=1)
        users = self.id_embeddings()[0][:, None].expand(-1, len(states), -1)
        return self.graph.propagate(torch.cat([users, items]), self.config.num_layers).unbind(1)

    def fuse(self, channels: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D])."""
        users, items = self.users_and_items(torch.cat(list(channels.values()), dim=1))
        return self.user_head(users), self.item_head(items)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D])."""
        return self.remembered(hide) or self.fuse(self.channels(self.check_hide(hide)))

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `main`, the in-batch contrast of users and items, and `ssl`, the weighted chain (task FAC)."""
        channels = self.channels(self.masked)
        users, items = self.fuse(channels)
        self.remember(users, items)
        main = info_nce(users[batch.users], items[batch.pos_items], self.config.temperature)
        rows = {name: table[self.num_users :][batch.pos_items] for name, table in channels.items()}
        return {"main": main, "ssl": self.config.ssl_weight * self.chain_loss(rows)}

    def chain_loss(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum over links of the contrast (plain inner products) of the batch items' rows by channel."""
        state, total = rows[""], rows[""].new_zeros(())
        for number, modality in enumerate(self.images_first):
            if number == 0:
                state = left = self.left[modality](state)
            else:
                state = self.between[modality](state)
                left = self.left[modality](state)
            right = self.right[modality](rows[modality])
            total = total + info_nce(left, right, self.config.ssl_temperature, normalize=False)
        return total
