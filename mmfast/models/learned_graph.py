"""Item graphs learned from projected features: k nearest by cosine, with a gradient through the kept similarities.

Shared by LATTICE and MICRO. Nothing of size I x I is made: ids come from the blocked kNN op, values from I x k pairs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field

from mmfast.config import ModelConfig
from mmfast.graph import Graph
from mmfast.models.layers import unit
from mmfast.ops import CSR, knn_graph


class LearnedGraphConfig(ModelConfig):
    """The options that LATTICE and MICRO have in common."""

    num_layers: int = Field(2, ge=0)
    """Propagation layers on the user-item graph."""
    num_item_layers: int = Field(1, ge=0)
    """Products with the item graphs (n_layers)."""
    k: int = Field(10, ge=1)
    """Neighbours per item, itself included."""
    original_weight: float = Field(0.9, ge=0, le=1)
    """Share lambda of the graph of the raw features."""
    backbone: Literal["lightgcn", "mf"] = "lightgcn"
    """lightgcn: means over layers of a graph with self loops and rows that add up to 1; mf: the tables."""
    train_features: bool = True
    """Train the raw features (released code); False trains the projections alone."""


class Similarities(NamedTuple):
    """The k most similar items of each item, itself included, and their cosines."""

    ids: torch.Tensor
    """int64 [I, k]"""
    values: torch.Tensor
    """[I, k], with a gradient to the vectors they come from"""

    def row_sums(self) -> torch.Tensor:
        """Return the sum of every item's similarities, [I]."""
        return self.values.sum(1)

    def graph(self, scale: torch.Tensor | None = None) -> Graph:
        """Return the operator scale[i] * value[i, j] * scale[j] (None: ones); the gradient of the values is kept."""
        num_items, k = self.ids.shape
        values = self.values if scale is None else self.values * scale[:, None] * scale[self.ids]
        values, cols = values.flatten(), self.ids.flatten()
        back = torch.argsort(cols, stable=True)
        ptr = torch.arange(num_items + 1, device=cols.device) * k
        ptr_t = torch.zeros(num_items + 1, dtype=torch.int64, device=cols.device)
        ptr_t[1:] = torch.bincount(cols, minlength=num_items).cumsum(0)
        rows_t = (back // k).to(torch.int32)
        return Graph(CSR(ptr, cols.to(torch.int32), values), CSR(ptr_t, rows_t, values.detach()[back]))


def detached(graph: Graph) -> Graph:
    """Return a learned graph without its gradient, ready for the other batches of an epoch: nothing is sorted anew."""
    return Graph(graph.csr._replace(values=graph.values.detach()), graph.transpose)


def similarities(vectors: torch.Tensor, k: int) -> Similarities:
    """Return the k nearest by cosine among the rows of vectors [I, D]; the choice itself has no gradient."""
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))  # half under autocast
    ids = knn_graph(vectors.detach(), k)[0].long()
    directions = unit(vectors)
    return Similarities(ids, (directions[:, None] * directions[ids]).sum(2))


def inverse_root(sums: torch.Tensor) -> torch.Tensor:
    """Return sums^-1/2, 0 where the sum is 0 and NaN where it is negative: the scale of K-COS (protocol section 8)."""
    zero = sums == 0
    return torch.where(zero, 1.0, sums).rsqrt().masked_fill(zero, 0.0)  # the gradient too is 0 where the sum is
