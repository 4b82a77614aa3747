"""LIRDRec: items are projected features alone, user blocks weighted on a schedule (Zhou et al., arXiv 2505.04960).

Follows the released code. The cosine transform of the shared block is applied to its weights, which is the same map.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.dataset_graphs import mean_graph, mixing_weights
from mmfast.embeddings import EmbeddingTable, linear, xavier
from mmfast.graph import Graph, keep_edges, subgraph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import leaky, linear_without_bias, unit
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, dct, idct, mean_square_reg
from mmfast.registry import MODELS
from mmfast.wide import wide_product

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

SHARED = "&"  # name of the block that all modalities share
Schedule = Literal["code", "eq19", "alg2"]


def schedule_weights(schedule: Schedule, tau: float, gamma: float, epoch: int, blocks: int) -> list[float]:
    """Return for each block the weight of the network in `epoch` (from 1); theta has the rest.

    code: w1 / w2 = tau / (1 - tau) * gamma ** (n (n + 1) / 2). eq19 and alg2 multiply tau itself (by eta = gamma ** n
    once an epoch, by eta ** 2 after every block), un-normalised, so that the network fades epochs earlier.
    """
    if schedule == "code":
        ratio = tau * gamma ** (epoch * (epoch + 1) / 2)
        return [ratio / (ratio + 1 - tau)] * blocks
    weights = []
    for n in range(1, epoch + 1):
        eta, weights = gamma**n, []
        for _ in range(blocks):
            weights.append(tau * eta / (tau * eta + 1 - tau))
            if schedule == "alg2":
                tau *= eta * eta
        if schedule == "eq19":
            tau *= eta
    return weights


class BlockWeight(nn.Module):
    """The network that weighs one block: D -> D / 4 -> 1."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(dim, max(dim // 4, 1), generator)
        self.out = linear(max(dim // 4, 1), 1, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a logit for each row of x [R, D], [R, 1]."""
        return self.out(leaky(self.hidden(x)))


@MODELS.register("lirdrec")
class LIRDRec(Recommender):
    """Blocks [n([P_b ; f_b(X)])] of every modality and a shared one, propagated; users weigh their blocks."""

    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of LIRDRec; the paper's rate is `train.learning_rate=1e-4`."""

        num_layers: int = Field(2, ge=0)
        """Propagation layers on the user-item graph; the grid is 2, 3, 4."""
        num_item_layers: int = Field(1, ge=0)
        """Products with the item graph."""
        k: int = Field(10, ge=1)
        """Neighbours per item, itself included."""
        image_weight: float = Field(0.1, ge=0, le=1)
        """Weight of the image graph; the others share the rest. The grid is 0.1, 0.2."""
        dct: Literal["feature", "2d", "none"] = "feature"
        """Cosine transform of the shared block: over each item's features (code), over items too (paper), or none."""
        schedule: Schedule = "code"
        """How the block weights move from the network to theta: the code, Eq. 19 or Algorithm 2 of the paper."""
        tau: float = Field(0.9, gt=0, lt=1)
        """Weight of the network at the start; the grid is 0.9, 0.95, 0.99."""
        gamma: float = Field(0.9, gt=0, le=1)
        """Base of the schedule."""
        edge_dropout: float = Field(0.0, ge=0, lt=1)
        """Share of training edges left out, redrawn before every epoch; evaluation then leaves them out too."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the mean squares of all final vectors; the grid is 1e-2, 1e-3, 1e-4."""
        stale_eval: bool = False
        """Rank by the vectors of the last training step, as the released code does."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        dim, dims = config.embedding_dim, {m: self.item_features(m).feature_dim for m in self.modalities}
        blocks = self.blocks
        self.users = NamedModules(
            {b: EmbeddingTable([self.num_users], dim, "xavier_normal", generator) for b in blocks}
        )
        self.first = NamedModules({b: linear(dims.get(b, sum(dims.values())), 4 * dim, generator) for b in blocks})
        self.second = NamedModules({b: linear_without_bias(4 * dim, dim, generator) for b in blocks})
        self.weights = NamedModules({b: BlockWeight(dim, generator) for b in blocks})
        self.theta = nn.Parameter(torch.empty(self.num_users, len(blocks)))
        xavier(self.theta.data, "xavier_normal", generator)
        self.register_buffer("last_attention", torch.zeros_like(self.theta))
        self.register_buffer("network_share", torch.full((len(blocks),), config.tau))
        weights = mixing_weights(self.modalities, config.image_weight)
        self.item_graph = mean_graph(dataset, weights, config.k)
        sizes = [self.num_users, self.num_items]
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))
        self.add_memory(dim * len(blocks))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The modalities, images first as in the released code, and the shared block."""
        return (*self.images_first, SHARED)

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the full graph (door 2); with edge_dropout the next epoch samples its edges."""
        super().set_interaction_graph(graph)
        self.active_graph = graph

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Move the block weights on, overwrite theta by the last attention, draw the edges of this epoch."""
        if epoch > 0:
            with torch.no_grad():
                self.theta.copy_(self.last_attention)
        self.set_shares(epoch + 1)
        if self.config.edge_dropout > 0:
            seed = int(torch.randint(2**62, (1,), generator=generator))
            kept = keep_edges(self.graph, self.config.edge_dropout, seed)
            self.active_graph = subgraph(self.graph, kept).to(self.theta.device)

    def set_shares(self, epoch: int) -> None:
        """Weigh the network against theta as the schedule says for `epoch` (from 1)."""
        config = self.config
        share = schedule_weights(config.schedule, config.tau, config.gamma, epoch, len(self.blocks))
        self.network_share.copy_(torch.tensor(share))

    def hidden_layer(self, hide: frozenset[str]) -> dict[str, torch.Tensor]:
        """Return the first layers [I, 4 D] before their bias, by block: one product for each modality."""
        width = 4 * self.config.embedding_dim
        modalities = self.blocks[:-1]
        sizes = [self.item_features(m).feature_dim for m in modalities]
        shared = dict(zip(modalities, self.first[SHARED].weight.split(sizes, dim=1), strict=True))
        hidden = {SHARED: 0}
        for modality in modalities:
            rotated = shared[modality] if self.config.dct == "none" else idct(shared[modality].contiguous())
            weight = torch.cat([self.first[modality].weight, rotated])
            both = wide_product(self.item_features(modality, hide).all(), weight)
            hidden[modality], part = both.split([width, width], dim=1)
            hidden[SHARED] = hidden[SHARED] + (dct(part.t().contiguous()).t() if self.config.dct == "2d" else part)
        return hidden

    def attention(self, users: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (softmax over blocks, logits), [U, blocks] each, of the user parts by block."""
        logits = torch.cat([self.weights[b](part) for b, part in zip(self.blocks, users, strict=True)], dim=1)
        mixed = self.network_share * logits + (1 - self.network_share) * self.theta
        return torch.softmax(mixed, dim=1), mixed

    def vectors(self, hide: frozenset[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, blocks D], items [I, blocks D]) and what theta becomes after the epoch."""
        parts = []
        hidden = self.hidden_layer(hide)
        for block in self.blocks:
            items = self.second[block](leaky(hidden[block] + self.first[block].bias))
            parts.append(unit(torch.cat([self.users[block].all(), items])))
        final = self.active_graph.propagate(torch.cat(parts, dim=1), self.config.num_layers, "sum")
        users, items = final.split([self.num_users, self.num_items])
        items = items + self.item_graph.propagate(items, self.config.num_item_layers, "last")
        by_block = users.split(self.config.embedding_dim, dim=1)
        attention, logits = self.attention(list(by_block))
        users = torch.cat([attention[:, b : b + 1] * part for b, part in enumerate(by_block)], dim=1)
        return users, items, attention if self.config.schedule == "code" else logits

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, W], items [I, W]), W = (1 + M) D."""
        return self.remembered(hide) or self.vectors(self.check_hide(hide))[:2]

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the user tables side by side [U, (1 + M) D] and zeros for items, which have no ID."""
        users = torch.cat([self.users[block].all() for block in self.blocks], dim=1)
        return users, users.new_zeros(self.num_items, users.shape[1])

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` and `reg`, the weighted mean squares of all final vectors."""
        users, items, attention = self.vectors(self.masked)
        self.remember(users, items)
        if self.training:
            self.last_attention.copy_(attention.detach())
        reg = mean_square_reg((users, None), (items, None))
        bpr = bpr_loss(users, items, batch.users, batch.pos_items, batch.neg_items, "logsigmoid")
        return {"bpr": bpr, "reg": self.config.reg_weight * reg}
