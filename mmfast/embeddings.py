"""EmbeddingTable: rows of trainable vectors, looked up by id or taken whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class EmbeddingTable(nn.Module):
    """A trainable table [rows, D]; several stacked parts (users, items) are initialised each by its own size."""

    def __init__(self, parts: Sequence[int], dim: int, init: str, generator: torch.Generator) -> None:
        """init: "xavier_uniform" (XU) or "xavier_normal" (XN) of protocol section 8, with fan = rows + dim per part."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sum(parts), dim))
        for part in self.weight.data.split(list(parts)):
            xavier(part, init, generator)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `ids`, [len(ids), D]; their gradient touches only these rows."""
        return F.embedding(ids, self.weight, sparse=True)

    def all(self) -> torch.Tensor:
        """Return the whole table [rows, D]."""
        return self.weight


def xavier(tensor: torch.Tensor, init: str, generator: torch.Generator) -> None:
    """Fill a matrix [n, m] in place: uniform in +-sqrt(6 / (n + m)) or normal with std sqrt(2 / (n + m))."""
    fan = sum(tensor.shape)
    with torch.no_grad():
        if init == "xavier_uniform":
            bound = math.sqrt(6.0 / fan)
            tensor.uniform_(-bound, bound, generator=generator)
        elif init == "xavier_normal":
            tensor.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
        else:
            raise ValueError(f"init is '{init}'; wanted 'xavier_uniform' or 'xavier_normal'")


def linear(in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear map with weight and bias uniform in +-1 / sqrt(in_dim) (LIN of protocol section 8)."""
    layer = nn.Linear(in_dim, out_dim)
    bound = 1.0 / math.sqrt(in_dim)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
