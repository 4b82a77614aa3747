"""Small pieces that several backbones share: initialised linear maps, attention over views, losses on final vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from mmfast.config import ModelConfig
from mmfast.embeddings import EmbeddingTable, linear, xavier
from mmfast.ops import batch_rows, bpr_loss, half_square_reg, info_nce, triple_margins

if TYPE_CHECKING:
    from mmfast.data.sampler import Batch
    from mmfast.graph import Graph

Rows = tuple[torch.Tensor, torch.Tensor]  # ids of users and of items, each ascending
SLOPE = 0.01  # of every leaky ReLU in the reference programs


def unit(x: torch.Tensor) -> torch.Tensor:
    """Return the rows of x [R, D] at length 1 (zero rows stay zero): n(x) of the model formulas."""
    return F.normalize(x, dim=-1)


def leaky(x: torch.Tensor) -> torch.Tensor:
    """Return the leaky ReLU of x, slope 0.01."""
    return F.leaky_relu(x, SLOPE)


def xavier_linear(in_dim: int, out_dim: int, init: str, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """Return a linear map with weight "xavier_uniform" (XU) or "xavier_normal" (XN) and the default bias of LIN."""
    layer = linear(in_dim, out_dim, generator) if bias else nn.Linear(in_dim, out_dim, bias=False)
    xavier(layer.weight.data, init, generator)
    return layer


def linear_without_bias(in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear map with weight uniform in +-1 / sqrt(in_dim) and no bias."""
    layer = nn.Linear(in_dim, out_dim, bias=False)
    with torch.no_grad():
        layer.weight.copy_(linear(in_dim, out_dim, generator).weight)
    return layer


def preference(table: EmbeddingTable, hidden: bool, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Return the user table of a modality at `rows` (None: all), [R, D]; its mean row everywhere when it is hidden."""
    if hidden:
        everyone = table.all()
        return everyone.mean(0).expand(len(everyone) if rows is None else rows.numel(), -1)
    return table.all() if rows is None else table(rows)


def margins_of_parts(
    users: Mapping[str, torch.Tensor],
    items: Mapping[str, torch.Tensor],
    triples: Sequence[torch.Tensor],
    hides: Sequence[Collection[str]],
) -> torch.Tensor:
    """Return the margins of triples (places of user, item, item) with each of `hides` hidden, [len(hides), T].

    For scores that are sums over the parts, [R, D] each, of user . item. A hidden part is one row for all items, so its
    margin is 0.
    """
    of_part = {name: triple_margins(users[name], items[name], *triples) for name in items}
    return torch.stack([sum(m for name, m in of_part.items() if name not in hide) for hide in hides])


def chosen(table: torch.Tensor, num_users: int, rows: Rows | None) -> torch.Tensor:
    """Return the rows of a table of users and items [N, ...] that `rows` names (None: all), [R, ...]."""
    return table if rows is None else table.index_select(0, torch.cat([rows[0], rows[1] + num_users]))


def propagated(
    graph: Graph, nodes: torch.Tensor, num_layers: int, num_users: int, rows: Rows | None, readout: str = "mean"
) -> torch.Tensor:
    """Return the read-out of nodes [N, D] on the user-item graph at `rows` (None: all), users then items, [R, D]."""
    if rows is None:
        return graph.propagate(nodes, num_layers, readout)
    return graph.propagate_rows(nodes, torch.cat([rows[0], rows[1] + num_users]), num_layers, readout)[0]


def users_beside_items(block: Graph, items: torch.Tensor, rows: Rows | None) -> torch.Tensor:
    """Return the users that a block gives from items [I, D], and the items, at `rows`: [R, D]."""
    if rows is None:
        return torch.cat([block.propagate(items, 1, "last"), items])
    return torch.cat([block.propagate_rows(items, rows[0], 1, "last")[0], items.index_select(0, rows[1])])


class Query(nn.Module):
    """out(tanh(hidden(x))), out without bias: the query net of MICRO, MGCN (out_dim 1) and SMORE (out_dim D)."""

    def __init__(self, dim: int, out_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = linear(dim, dim, generator)
        self.out = linear_without_bias(dim, out_dim, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the query of x [R, D], [R, out_dim]."""
        return self.out(torch.tanh(self.hidden(x)))


def attend(query: Query, views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the views [R, D] weighted by a softmax over them of their queries, summed, [R, D]."""
    weights = torch.softmax(torch.cat([query(view) for view in views], dim=1), dim=1)
    return sum(weights[:, m : m + 1] * view for m, view in enumerate(views))


def drawn(most: int | None, rows: int, device: torch.device) -> slice | torch.Tensor:
    """Return `most` of so many rows, drawn anew, int64; all of them where there are no more or `most` is None."""
    return slice(None) if most is None or most >= rows else torch.randperm(rows, device=device)[:most]


def compacted(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    """Return the distinct users and items of a batch, ascending, and the batch that names them by their places.

    A loss that reads no other final vectors needs only these rows of the last layers.
    """
    users, user = batch.unique_users
    items, pos, neg = batch.unique_items
    sizes = {"num_users": users.numel(), "num_items": items.numel()}
    return users, items, replace(batch, users=user, pos_items=pos, neg_items=neg, others=None, **sizes)


def ranking_terms(
    config: ModelConfig, batch: Batch, users: torch.Tensor, items: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return `bpr` (log-sigmoid) and `reg` (R-HALF, times `config.reg_weight`) of final vectors [U, D] and [I, D]."""
    user, pos, neg = batch.users, batch.pos_items, batch.neg_items
    reg = half_square_reg(batch.configured_size, (users, user), (items, pos), (items, neg))
    return {"bpr": bpr_loss(users, items, user, pos, neg, "logsigmoid"), "reg": config.reg_weight * reg}


def two_view_loss(
    config: ModelConfig, batch: Batch, behaviour: torch.Tensor, side: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the ranking terms of behaviour + side, and `cl_items` and `cl_users`, side against behaviour.

    The loss of MGCN and SMORE; `config` has reg_weight, cl_weight and temperature. Both views: [R, D], the users and
    then the items that `batch` points into.
    """
    users, items = (behaviour + side).split([batch.num_users, batch.num_items])
    terms = ranking_terms(config, batch, users, items)
    for name, rows in (("cl_items", batch.pos_items + batch.num_users), ("cl_users", batch.users)):
        views = (batch_rows(view.index_select(0, rows)) for view in (side, behaviour))
        terms[name] = config.cl_weight * info_nce(*views, config.temperature)
    return terms
