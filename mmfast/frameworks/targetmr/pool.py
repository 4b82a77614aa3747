"""Target-aware features behind door 1 (Eq. 20-21): the target beside its attention-pooled auxiliaries."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfast.embeddings import RowTable, xavier
from mmfast.frameworks.targetmr.ragged import Ragged
from mmfast.models.features import FeatureSource
from mmfast.ops import target_pool

Attention = Literal["linear", "tanh"]


@dataclass(frozen=True)
class Side:
    """One modality's objects as training reads them: targets float [I, D] and ragged auxiliaries float [A, D].

    chosen: int64 [I], the target's place among the item's objects, -1 where the mean target stands in.
    """

    target: Tensor
    aux: Ragged
    chosen: Tensor

    @property
    def dim(self) -> int:
        """Width D of an object."""
        return self.target.shape[1]

    def digest(self) -> Tensor:
        """Return what tells these objects from any others, uint8 [32]."""
        return digest(self.target, self.aux.values, self.aux.ptr)


def digest(*tables: Tensor) -> Tensor:
    """Return what tells these tables from any others, uint8 [32]."""
    found = hashlib.sha256()
    for table in tables:
        found.update(f"{table.dtype} {list(table.shape)}".encode())
        found.update(table.detach().cpu().contiguous().numpy().data)
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


class Pool(nn.Module):
    """[t || sum_k b_k a_k] with b = softmax_k(w . [t || a_k]) and w Xavier normal, no bias.

    The target's half of w adds one number to all logits of an item, which the softmax cancels: the attention does not
    depend on the target. kind="tanh" (ours, not the paper's) makes it depend: b = softmax_k(u . tanh(A [t || a_k])).
    """

    def __init__(self, dim: int, kind: Attention, generator: torch.Generator) -> None:
        super().__init__()
        self.kind = kind
        self.attention = nn.Parameter(torch.empty(2 * dim if kind == "linear" else dim, 1))
        xavier(self.attention.data, "xavier_normal", generator)
        if kind == "tanh":
            self.mixing = nn.Parameter(torch.empty(dim, 2 * dim))
            xavier(self.mixing.data, "xavier_normal", generator)

    def forward(self, target: Tensor, aux: Ragged) -> Tensor:
        """Return features [R, 2D] of targets [R, D] and their auxiliaries; zeros pool where there are none."""
        if self.kind == "linear":
            return target_pool(target, aux.values, aux.ptr, self.attention)
        owner = aux.owners()
        pairs = torch.cat([target.index_select(0, owner), aux.values], dim=1)
        # The softmax by the op itself: logits as a one-number auxiliary beside the vector would need a kernel more.
        logits = (torch.tanh(pairs @ self.mixing.t()) @ self.attention).squeeze(1)
        highest = logits.detach().new_full((len(target),), float("-inf"))
        highest = highest.scatter_reduce(0, owner, logits.detach(), "amax")
        weights = torch.exp(logits - highest[owner])
        weights = weights / weights.new_zeros(len(target)).index_add(0, owner, weights)[owner]
        pooled = torch.zeros_like(target).index_add(0, owner, weights[:, None] * aux.values)
        return torch.cat([target, pooled], dim=1)


class TargetFeatures(FeatureSource):
    """x = [t || sum_k b_k a_k] of every item, [I, 2D]: objects are constants, the attention learns with the backbone.

    `delta`, where `add_delta` was called, is a trained table [I, 2D] that is added. `graph_pool` is the attention that
    the extended graph in use was made with, `graph_epoch` the epoch of that, -1 before the first; with them a
    checkpoint tells the whole model.
    """

    def __init__(self, side: Side, kind: Attention, generator: torch.Generator) -> None:
        super().__init__()
        self.num_items, self.feature_dim = len(side.target), 2 * side.dim
        self.register_buffer("target", side.target, persistent=False)
        self.register_buffer("aux", side.aux.values, persistent=False)
        self.register_buffer("ptr", side.aux.ptr, persistent=False)
        self.register_buffer("digest", side.digest())
        self.pool = Pool(side.dim, kind, generator)
        self.graph_pool = copy.deepcopy(self.pool).requires_grad_(False)
        self.register_buffer("graph_epoch", torch.tensor(-1))
        self.delta: RowTable | None = None

    def add_delta(self) -> None:
        """Add a table that is trained, zeros at the start: what a backbone that trains its features would learn."""
        self.delta = RowTable(self.target.new_zeros(self.num_items, self.feature_dim))

    @property
    def objects(self) -> Ragged:
        """The auxiliaries of every item."""
        return Ragged(self.aux, self.ptr)

    def rows(self, ids: Tensor) -> Tensor:
        """Return the features of items `ids`, [R, 2D], with a gradient to the attention."""
        rows = self.pool(self.target.index_select(0, ids), self.objects.take(ids))
        return rows if self.delta is None else rows + F.embedding(ids, self.delta.read(ids), sparse=True)

    def all(self) -> Tensor:
        """Return the features of every item, [I, 2D], with a gradient to the attention."""
        features = self.pool(self.target, self.objects)
        return features if self.delta is None else features + self.delta.all()

    def remember(self, epoch: int) -> None:
        """Keep the attention as it stands for the extended graph of this epoch."""
        self.graph_pool.load_state_dict(self.pool.state_dict())
        self.graph_epoch.fill_(epoch)

    @torch.no_grad()
    def graph_features(self) -> Tensor:
        """Return the features [I, 2D] by the kept attention, without `delta` and without a gradient."""
        return self.graph_pool(self.target, self.objects)
