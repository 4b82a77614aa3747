"""LGMRec: local ID and modality graphs, global learned hypergraphs (Guo et al., AAAI 2024), as released.

Departs from the released code at evaluation: its Gumbel noise, which makes scores random, is off by default.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable, xavier
from mmfast.graph import Graph, user_item_block, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import Rows, chosen, propagated, unit
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, frobenius_reg, hyperedges, info_nce
from mmfast.registry import MODELS
from mmfast.wide import wide_product

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

Tables = tuple[torch.Tensor, torch.Tensor]
FAST_WIDTH = 16  # least width at which products with thousands of rows are fast


class HyperVectors(NamedTuple):
    """Hypergraph vectors of one modality, incidence @ edges: for users [U, D] and for items [I, D]."""

    tables: Tables
    incidences: Tables
    """[U, H] and [I, H]"""
    edges: torch.Tensor
    """[H, D]"""

    def scaled(self, side: int) -> torch.Tensor:
        """Return the incidence [R, H] of users (0) or items (1) that gives their vectors at length 1."""
        lengths = torch.linalg.vector_norm(self.tables[side], dim=1, keepdim=True)
        return self.incidences[side] / lengths.clamp_min(1e-12)


class ContentMaps(nn.Module):
    """The maps of one modality, [F, D] to vectors and [F, H] to hyperedges, without biases."""

    def __init__(self, feature_dim: int, dim: int, num_hyperedges: int, generator: torch.Generator) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.empty(feature_dim, dim))
        self.hyperedge = nn.Parameter(torch.empty(feature_dim, num_hyperedges))
        for weight in (self.projection, self.hyperedge):
            xavier(weight.data, "xavier_uniform", generator)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return vectors and hyperedge logits side by side, [R, D + H], of features [R, F]: one product."""
        return wide_product(features, torch.cat([self.projection, self.hyperedge], dim=1).t())


@MODELS.register("lgmrec")
class LGMRec(Recommender):
    """Final = LightGCN mean + sum over modalities of n(modality vectors) + alpha n(sum of hypergraph vectors)."""

    over_ranks = "batch"

    class Config(ModelConfig):
        """Options of LGMRec."""

        num_layers: int = Field(2, ge=0)
        """Propagation layers of the IDs (n_ui_layers)."""
        num_modality_layers: int = Field(2, ge=0)
        """Propagation layers of the modality vectors (n_mm_layers)."""
        num_hyper_layers: int = Field(1, ge=1)
        """Rounds over the hypergraph."""
        num_hyperedges: int = Field(4, ge=1)
        """Hyperedges per modality (hyper_num)."""
        keep_rate: float = Field(0.5, gt=0, le=1)
        """Share of the hypergraph's entries kept in training."""
        alpha: float = Field(0.3, ge=0)
        """Weight of the hypergraph vectors."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the assignment to hyperedges and of the contrast."""
        cl_weight: float = Field(1e-4, ge=0)
        """Weight of the contrast, a sum over the batch."""
        reg_weight: float = Field(1e-6, ge=0)
        """Weight of R-FRO on final vectors."""
        eval_noise: bool = False
        """Keep the Gumbel noise at evaluation (released code): two evaluations then differ."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        self.nodes = EmbeddingTable(sizes, dim, "xavier_uniform", generator)
        self.maps = NamedModules(
            {
                m: ContentMaps(self.item_features(m).feature_dim, dim, config.num_hyperedges, generator)
                for m in self.modalities
            }
        )
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2)."""
        super().set_interaction_graph(graph)
        self.counts = user_item_block(*self.interactions(graph), "plain")
        self.register_buffer("user_degrees", self.counts.csr.ptr.diff().float()[:, None], persistent=False)

    def noise(self, name: str, logits: torch.Tensor) -> torch.Tensor:
        """Return Gumbel noise like `logits`; `name` says whose it is: (modality, "item" or "user")."""
        return -torch.empty_like(logits).exponential_().log()

    def thin(self, name: str, incidence: torch.Tensor) -> torch.Tensor:
        """Return the incidence [R, H] with entries dropped in training."""
        return F.dropout(incidence, 1 - self.config.keep_rate, self.training)

    def incidence(self, modality: str, side: str, logits: torch.Tensor) -> torch.Tensor:
        """Return the soft assignment of rows to hyperedges, [R, H]."""
        name = f"{modality}_{side}"
        if self.training or self.config.eval_noise:
            logits = logits + self.noise(name, logits)
        return self.thin(name, torch.softmax(logits / self.config.temperature, dim=1))

    def content(self, hide: frozenset[str]) -> dict[str, Tables]:
        """Return by modality the projected items [I, D] and their hyperedge logits [I, H], from one product."""
        parts, widths = {}, [self.config.embedding_dim, self.config.num_hyperedges]
        for modality, maps in self.maps.items():
            parts[modality] = self.item_features(modality, hide).through(maps).split(widths, dim=1)
        return parts

    def modality_vectors(self, items: torch.Tensor, rows: Rows | None) -> torch.Tensor:
        """Return n(the last propagation layer) [R, D] of projected items; users start at the mean of their items."""
        users = self.counts.propagate(items, 1, "last") / (self.user_degrees + 1e-7)
        start, layers = torch.cat([users, items]), self.config.num_modality_layers
        return unit(propagated(self.graph, start, layers, self.num_users, rows, "last"))

    def hyper_vectors(self, modality: str, logits: torch.Tensor, items: torch.Tensor) -> HyperVectors:
        """Return the hypergraph vectors of a modality, from the ID vectors of items."""
        of_items = self.incidence(modality, "item", logits)
        of_users = self.incidence(modality, "user", self.counts.propagate(logits, 1, "last"))
        edges = hyperedges(of_items, items, self.config.num_hyper_layers)
        return HyperVectors((of_users @ edges, of_items @ edges), (of_users, of_items), edges)

    def vectors(self, hide: frozenset[str], rows: Rows | None = None) -> tuple[torch.Tensor, dict[str, HyperVectors]]:
        """Return final vectors of `rows` (None: all) [R, D] and the hypergraph vectors by modality."""
        collaborative = self.once("final", lambda: self.graph.propagate(self.nodes.all(), self.config.num_layers))
        items, final, hyper = collaborative[self.num_users :], chosen(collaborative, self.num_users, rows), {}
        for modality, (projected, logits) in self.content(hide).items():
            final = final + self.modality_vectors(projected, rows)
            hyper[modality] = self.hyper_vectors(modality, logits, items)
        everywhere = sum(chosen(torch.cat(vectors.tables), self.num_users, rows) for vectors in hyper.values())
        return final + self.config.alpha * unit(everywhere), hyper

    def embed(self, hide: Collection[str] = ()) -> Tables:
        """Return final vectors (users [U, D], items [I, D])."""
        return self.users_and_items(self.vectors(self.check_hide(hide))[0])

    def vectors_at(self, hide: frozenset[str], rows: Rows) -> Tables:
        """Return final vectors of `rows`, (users [R, D], items [S, D])."""
        return self.vectors(hide, rows)[0].split([len(part) for part in rows])

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr`, `reg`, and `cl_users`, `cl_items`: hypergraph vectors of one modality against the others'."""
        rows, compact = self.step_rows(batch)
        final, hyper = self.vectors(self.masked, rows)
        users, items = final.split([compact.num_users, compact.num_items])
        user, pos, neg = compact.users, compact.pos_items, compact.neg_items
        terms = {
            "bpr": bpr_loss(users, items, user, pos, neg, "logsigmoid"),
            "reg": self.config.reg_weight * frobenius_reg((users, user), (items, pos), (items, neg)),
        }
        anchor, *others = self.images_first
        for side, (name, rows) in enumerate((("cl_users", batch.users), ("cl_items", batch.pos_items))):
            if others:
                terms[name] = self.config.cl_weight * sum(
                    self.contrast(hyper[anchor], hyper[other], side, rows) for other in others
                )
        return terms

    def contrast(self, one: HyperVectors, other: HyperVectors, side: int, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum over the batch of -ln of each anchor's own row's share among all rows of the other table.

        The vectors are of rank H: their cosines are products of H numbers, incidences against incidences.
        """
        anchors, table = one.scaled(side)[rows] @ (one.edges @ other.edges.T), other.scaled(side)
        if anchors.shape[1] < FAST_WIDTH:
            anchors, table = (F.pad(x, (0, FAST_WIDTH - x.shape[1])) for x in (anchors, table))
        temperature = self.config.temperature
        return info_nce(anchors, table, temperature, rows, normalize=False, negatives="all", reduction="sum")
