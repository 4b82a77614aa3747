"""EgoGCN: messages modulated edge by edge across modalities (Chen et al., MM 2022), as the author code runs it.

The code has three modalities of micro-videos; here any number. "soft" is the default, for no threshold was published
for Amazon data.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, edge_graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import leaky, unit
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, edge_attention, mean_square_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


@MODELS.register("egogcn")
class EgoGCN(Recommender):
    """Vectors are an ID part propagated without weights and, for each modality, its modulated and routed content."""

    over_ranks = "batch"

    class Config(ModelConfig):
        """Options of EgoGCN."""

        modulation: Literal["soft", "hard"] = "soft"
        """soft: a gated sum of all modalities; hard: their mean on edges whose attention is above `threshold`."""
        threshold: float = Field(0.4, ge=0, le=1)
        """Attention above which a hard edge is modulated; the author's are 0.4 and 0.6."""
        num_routing: int = Field(1, ge=0)
        """Rounds of attention after the modulation; the author's are 1 and 3."""
        hops: Literal["code", "three"] = "code"
        """code: z0 + A z0 + 2 A^2 z0, the second hop twice; three: z0 + A z0 + A^2 z0 + A^3 z0."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of the mean squares of IDs and preferences of the batch."""
        normalise_preferences: bool = True
        """Write unit rows back into the preferences before every use (author code): their penalty is then constant."""
        stale_eval: bool = False
        """Rank by the vectors of the last training step, as the author code does."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        dim, modalities = config.embedding_dim, self.images_first
        self.nodes = EmbeddingTable([self.num_users + self.num_items], dim, "xavier_normal", generator)
        self.preferences = NamedModules(
            {m: EmbeddingTable([self.num_users], dim, "xavier_normal", generator) for m in modalities}
        )
        self.projections = NamedModules(
            {m: linear(self.item_features(m).feature_dim, dim, generator) for m in modalities}
        )
        pairs = [(m, other) for m in modalities for other in modalities if m != other]
        if config.modulation == "soft":
            self.gates = NamedModules({f"{m}<{other}": linear(dim, dim, generator) for m, other in pairs})
        self.set_interaction_graph(
            user_item_graph(dataset.train.users, dataset.train.items, self.num_users, self.num_items)
        )
        self.add_memory(dim * (1 + len(modalities)))

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2); IDs pass them normalised without epsilon."""
        users, items, num_users, num_items = edges = self.interactions(graph)
        super().set_interaction_graph(user_item_graph(*edges, "sym0"))
        nodes, num_nodes = items + num_users, num_users + num_items
        both = np.concatenate([users, nodes]), np.concatenate([nodes, users])
        self.edges = edge_graph(*both, num_nodes, num_nodes)

    def starts(self, hide: frozenset[str]) -> dict[str, torch.Tensor]:
        """Return [preference ; n(content)] by modality, [N, D] each."""
        return {m: self.in_state("start", m, hide, partial(self.start, m)) for m in self.projections}

    def start(self, modality: str, states: tuple[bool, ...]) -> list[torch.Tensor]:
        """Return [preference ; n(content)] of a modality by state, after the preferences are normalised."""
        if self.config.normalise_preferences and self.training:
            table = self.preferences[modality].all().data  # .data: what another pass of the step saved stays valid
            table.copy_(unit(table))
        items = unit(leaky(self.contents(modality, self.projections[modality], states))).unbind(1)
        users = [self.user_preference(modality, (modality,) if hidden else ()) for hidden in states]
        return [torch.cat(pair) for pair in zip(users, items, strict=True)]

    def message(self, modality: str, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return what a node sends for a modality by soft modulation, [N, D]."""
        others = [other for other in x if other != modality]
        gated = [torch.sigmoid(self.gates[f"{modality}<{other}"](x[other])) * x[other] for other in others]
        return (x[modality] + sum(gated)) / len(x) if gated else x[modality]

    def modulate(self, modality: str, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the modulated vectors of a modality, [N, D]."""
        own, edges = x[modality], self.edges.incoming()
        if self.config.modulation == "soft":
            sent = self.message(modality, x)
            return unit(edge_attention(edges, own, sent, sent)[0])
        sent = torch.cat([own, sum(x.values()) / len(x)])
        return unit(edge_attention(edges, own, sent, sent, choice=self.strong(own))[0])

    def strong(self, own: torch.Tensor) -> torch.Tensor:
        """Return which entries of the graph have an attention above the threshold, bool [E]."""
        with torch.no_grad():
            return edge_attention(self.edges.incoming(), own, own, own)[1] > self.config.threshold

    def modulated_share(self) -> dict[str, float]:
        """Return the share of graph entries that hard modulation changes, by modality."""
        with torch.no_grad():
            x = self.starts(self.masked)
        return {m: self.strong(own).float().mean().item() for m, own in x.items()}

    def representation(self, hide: frozenset[str]) -> torch.Tensor:
        """Return the vectors of all nodes, [N, (1 + M) D]: IDs, then the modalities."""
        x = self.starts(hide)
        contents = []
        for modality in x:
            content = self.modulate(modality, x)
            for _ in range(self.config.num_routing):
                content = unit(content + edge_attention(self.edges.incoming(), content, content, content)[0])
            contents.append(content)
        return torch.cat([self.once("ids", self.propagated_ids), *contents], dim=1)

    def propagated_ids(self) -> torch.Tensor:
        """Return the ID part of all nodes, [N, D]."""
        start = unit(self.nodes.all())
        if self.config.hops == "three":
            return self.graph.propagate(start, 3, "sum")
        once = self.graph.propagate(start, 1, "last")
        return start + once + 2 * self.graph.propagate(once, 1, "last")

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, (1 + M) D], items [I, (1 + M) D])."""
        return self.remembered(hide) or self.users_and_items(self.representation(self.check_hide(hide)))

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` (-ln sigmoid) and `reg`: mean squares of the batch's IDs and preferences."""
        users, items = self.users_and_items(self.representation(self.masked))
        self.remember(users, items)
        bpr = bpr_loss(users, items, batch.users, batch.pos_items, batch.neg_items, "raw")
        return {"bpr": bpr, "reg": self.config.reg_weight * self.penalty(batch)}

    def penalty(self, batch: Batch) -> torch.Tensor:
        """Return the mean over 2 B pairs of squared ID entries, and the mean squares of the users' preferences."""
        users, items = self.id_embeddings()
        pairs = (users, batch.users), (items, torch.cat([batch.pos_items, batch.neg_items]))
        return mean_square_reg(*pairs, *((table.all(), batch.users) for _, table in self.preferences.items()))
