"""MMGCN: one graph network per modality, averaged (Wei et al., MM 2019), as MMRec and the author code run it.

IDs and user preferences stay at their random start there, and here by default; `trainable_ids` trains them.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.embeddings import linear, xavier
from mmfast.graph import Graph, user_item_block, user_item_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import Rows, leaky, unit, xavier_linear
from mmfast.models.named import NamedModules
from mmfast.ops import bpr_loss, mean_square_reg
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


Pair = tuple[torch.Tensor, torch.Tensor]


class Layer(nn.Module):
    """x -> lr(G [lr(Mean(x C)) ; lr(H x) + Z])"""

    def __init__(self, width: int, dim: int, first: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.conv = xavier_linear(width, width, "xavier_normal", generator, bias=False)
        self.hidden = xavier_linear(width, dim, "xavier_normal", generator)
        # The reference gives the first combining map its own start and leaves the others at the default.
        combine = (lambda *sizes: xavier_linear(*sizes, "xavier_normal", generator)) if first else None
        self.combine = combine(width + dim, dim) if combine else linear(width + dim, dim, generator)

    def forward(self, x: torch.Tensor, heard: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the next vectors [R, D] from the present ones [R, width], Mean(x C) [R, width] and the IDs [R, D]."""
        beside = leaky(self.hidden(x)) + ids
        # The two halves of the combining map apart: no table of them side by side.
        of_heard, of_beside = self.combine.weight.split([heard.shape[1], beside.shape[1]], dim=1)
        return leaky(torch.addmm(F.linear(leaky(heard), of_heard, self.combine.bias), beside, of_beside.t()))


@MODELS.register("mmgcn")
class MMGCN(Recommender):
    """The mean over modalities of three mean-aggregating layers that start from [preference ; content]."""

    over_ranks = "rows"

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
        self.step_tables = 8.0 * sum(widths.values()) / (dim * (1 + len(widths)))  # the first layers are wide

    def _start(self, rows: int, width: int, generator: torch.Generator) -> nn.Parameter:
        table = torch.empty(rows, width)
        xavier(table, "xavier_normal", generator)
        return nn.Parameter(table, requires_grad=self.config.trainable_ids)

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2); every node takes the mean of its neighbours, 0 without any."""
        super().set_interaction_graph(graph)
        edges = self.interactions(graph)
        self.to_users, self.to_items = (user_item_block(*edges, "mean", rows=side) for side in ("users", "items"))

    def user_preference(self, modality: str, hide: Collection[str] = ()) -> torch.Tensor:
        """Return the preferences [U, width] of a modality; the mean row everywhere when it is in `hide`."""
        table = self.preferences[f"of_{modality}"]
        return table.mean(0).expand_as(table) if modality in hide else table

    def start(self, modality: str, hidden: bool) -> Pair:
        """Return the vectors before any layer: users [U, width], items [I, width]."""
        hide = (modality,) if hidden else ()
        source = self.item_features(modality, hide)
        content = source.through(self.inputs[modality]) if modality in self.inputs else source.all()
        return unit(self.user_preference(modality, hide)), unit(content)

    def step(self, layer: Layer, users: torch.Tensor, items: torch.Tensor, rows: Rows | None) -> Pair:
        """Return the next vectors of users and items, at `rows` alone where given.

        Users and items are more than items twice: C is applied to items before users take their mean, and to the mean
        of users after items have taken it, which is the same.
        """
        ids = self.id_embeddings()
        of_items, of_users = layer.conv(items), users
        if rows is None:
            heard = self.to_users.propagate(of_items, 1, "last"), self.to_items.propagate(of_users, 1, "last")
        else:
            heard = tuple(
                block.propagate_rows(table, part, 1, "last")[0]
                for block, table, part in ((self.to_users, of_items, rows[0]), (self.to_items, of_users, rows[1]))
            )
            ids, (users, items) = (
                [table.index_select(0, part) for table, part in zip(pair, rows, strict=True)]
                for pair in (ids, (users, items))
            )
        return layer(users, heard[0], ids[0]), layer(items, layer.conv(heard[1]), ids[1])

    def view(self, modality: str, rows: Rows | None, states: tuple[bool, ...]) -> list[Pair]:
        """Return the vectors of users and of items for a modality, [R, D] each at `rows` (None: all), by state."""
        views, layers = [], self.layers[modality]
        for hidden in states:
            users, items = self.start(modality, hidden)
            for number, layer in enumerate(layers, start=1):
                users, items = self.step(layer, users, items, rows if number == len(layers) else None)
            views.append((users, items))
        return views

    def representation(self, hide: frozenset[str], rows: Rows | None = None) -> Pair:
        """Return the vectors of users and of items, [R, D] each, at `rows` (None: all)."""
        views = [self.in_state("view", m, hide, partial(self.view, m, rows)) for m in self.layers]
        return tuple(sum(parts) / len(views) for parts in zip(*views, strict=True))

    def vectors_at(self, hide: frozenset[str], rows: Rows) -> Pair:
        """Return final vectors of `rows`, (users [R, D], items [S, D])."""
        return self.representation(hide, rows)

    def embed(self, hide: Collection[str] = ()) -> Pair:
        """Return final vectors (users [U, D], items [I, D])."""
        return self.remembered(hide) or self.representation(self.check_hide(hide))

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ID tables (users [U, D], items [I, D])."""
        return self.users_and_items(self.ids)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr` (-ln sigmoid) and `reg`: mean squares of the batch's IDs and of all image preferences."""
        rows, compact = self.step_rows(batch)
        users, items = self.representation(self.masked, rows)
        self.remember(users, items)
        user, pos, neg = compact.users, compact.pos_items, compact.neg_items
        first = "image" if "image" in self.layers else self.modalities[0]
        reg = self.id_penalty(batch) + mean_square_reg((self.preferences[f"of_{first}"], None))
        return {"bpr": bpr_loss(users, items, user, pos, neg, "raw"), "reg": self.config.reg_weight * reg}

    def id_penalty(self, batch: Batch) -> torch.Tensor:
        """Return the mean over the 2 B stacked pairs (u, i), (u, j) and over D of the squared ID entries."""
        users, items = self.id_embeddings()
        return mean_square_reg((users, batch.users), (items, torch.cat([batch.pos_items, batch.neg_items])))
