"""MMGCN: one graph network per modality, averaged (Wei et al., MM 2019), as MMRec and the author code run it.

IDs and user preferences stay at their random start there, and here by default; `trainable_ids` trains them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.embeddings import linear, xavier
from mmfast.graph import Graph, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import leaky, unit, xavier_linear
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, mean_square_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


class Layer(nn.Module):
    """x -> lr(G [lr(Mean(x C)) ; lr(H x) + Z])"""

    def __init__(self, width: int, dim: int, first: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.conv = xavier_linear(width, width, "xavier_normal", generator, bias=False)
        self.hidden = xavier_linear(width, dim, "xavier_normal", generator)
        # The reference gives the first combining map its own start and leaves the others at the default.
        combine = (lambda *sizes: xavier_linear(*sizes, "xavier_normal", generator)) if first else None
        self.combine = combine(width + dim, dim) if combine else linear(width + dim, dim, generator)

    def forward(self, x: torch.Tensor, ids: torch.Tensor, mean: Graph) -> torch.Tensor:
        """Return the next vectors [N, S, D] of x [N, S, width], given the ID vectors [N, 1, D] and the mean graph."""
        neighbours = leaky(mean.propagate(self.conv(x), 1, "last"))
        return leaky(self.combine(torch.cat([neighbours, leaky(self.hidden(x)) + ids], dim=2)))


@MODELS.register("mmgcn")
class MMGCN(Recommender):
    """The mean over modalities of three mean-aggregating layers that start from [preference ; content]."""

    class Config(ModelConfig):
        """Options of MMGCN."""

        reg_weight: float = Field(0.0, ge=0)
        """Weight of the penalty on IDs and image preferences; without `trainable_ids` it only shifts the loss."""
        trainable_ids: bool = False
        """Train IDs and user preferences (the paper) instead of leaving them at their start (the released code)."""
        input_dims: dict[str, int] = Field({"image": 256})
        """Width of the trained input layer of a modality; the others enter as they are."""
        stale_eval: bool = False
        """Rank by the vectors of the last training step, as the released code does."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=False)
        dim, dims = config.embedding_dim, {m: self.item_features(m).feature_dim for m in self.modalities}
        widths = {m: config.input_dims.get(m, size) for m, size in dims.items()}
        self.inputs = NamedModules({m: linear(dims[m], widths[m], generator) for m in dims if m in config.input_dims})
        self.layers = NamedModules(
            {
                m: nn.ModuleList(Layer(width if n == 0 else dim, dim, n == 0, generator) for n in range(3))
                for m, width in widths.items()
            }
        )
        self.ids = self._start(self.num_users + self.num_items, dim, generator)
        self.preferences = nn.ParameterDict()
        for modality, width in widths.items():
            self.preferences[f"of_{modality}"] = self._start(self.num_users, width, generator)
        self.set_interaction_graph(
            user_item_graph(dataset.train.users, dataset.train.items, self.num_users, self.num_items)
        )
        self.add_memory(dim)

    def _start(self, rows: int, width: int, generator: torch.Generator) -> nn.Parameter:
        table = torch.empty(rows, width)
        xavier(table, "xavier_normal", generator)
        return nn.Parameter(table, requires_grad=self.config.trainable_ids)

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2); every node takes the mean of its neighbours, 0 without any."""
        super().set_interaction_graph(user_item_graph(*self.interactions(graph), "mean"))

    def user_preference(self, modality: str, hide: Collection[str] = ()) -> torch.Tensor:
        """Return the preferences [U, width] of a modality; the mean row everywhere when it is in `hide`."""
        table = self.preferences[f"of_{modality}"]
        return table.mean(0).expand_as(table) if modality in hide else table

    def view(self, modality: str, states: tuple[bool, ...]) -> Sequence[torch.Tensor]:
        """Return the vectors of all nodes for a modality, [N, D] by state."""
        affine = self.inputs[modality] if modality in self.inputs else nn.Identity()
        content = self.contents(modality, affine, states)
        users = torch.stack([self.user_preference(modality, (modality,) if hidden else ()) for hidden in states], dim=1)
        x = unit(torch.cat([users, content]))
        for layer in self.layers[modality]:
            x = layer(x, self.ids[:, None], self.graph)
        return x.unbind(1)

    def representation(self, hide: frozenset[str]) -> torch.Tensor:
        """Return the vectors of all nodes, [N, D]."""
        views = [self.in_state("view", m, hide, partial(self.view, m)) for m in self.layers]
        return sum(views) / len(views)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D])."""
        return self.remembered(hide) or self.users_and_items(self.representation(self.check_hide(hide)))

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ID tables (users [U, D], items [I, D])."""
        return self.users_and_items(self.ids)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` (-ln sigmoid) and `reg`: mean squares of the batch's IDs and of all image preferences."""
        users, items = self.users_and_items(self.representation(self.masked))
        self.remember(users, items)
        user, pos, neg = batch.users, batch.pos_items, batch.neg_items
        first = "image" if "image" in self.layers else self.modalities[0]
        reg = self.id_penalty(batch) + mean_square_reg((self.preferences[f"of_{first}"], None))
        return {"bpr": bpr_loss(users, items, user, pos, neg, "raw"), "reg": self.config.reg_weight * reg}

    def id_penalty(self, batch: Batch) -> torch.Tensor:
        """Return the mean over the 2 B stacked pairs (u, i), (u, j) and over D of the squared ID entries."""
        users, items = self.id_embeddings()
        return mean_square_reg((users, batch.users), (items, torch.cat([batch.pos_items, batch.neg_items])))
