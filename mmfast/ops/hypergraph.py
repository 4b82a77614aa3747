"""hypergraph: LGMRec's products with learned hypergraphs (2024), which are dense and skinny."""

from __future__ import annotations

import torch

from mmfast.errors import MmfastError


def hypergraph(
    user_incidence: torch.Tensor, item_incidence: torch.Tensor, items: torch.Tensor, num_layers: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (users [U, D], items [I, D]) after L hypergraph layers from the item table z.

    A layer is lat = H_i^T z, z <- H_i lat; the users are H_u lat of the last layer. user_incidence H_u: float [U, A],
    item_incidence H_i: float [I, A], the soft assignments to A hyperedges; items z: [I, D]; num_layers >= 1. Raises
    MmfastError for shapes that do not fit.

    Plain PyTorch, on purpose: the products are at the machine's limits already, so a kernel of our own could save a
    millisecond of a step. One layer and Baby's tables, one thread: 1.0 ms with A = 4, half the speed of the stream,
    and 4.2 ms with A = 64, 83 % of the rate of a large matrix product; bench/hypergraph.py measures it.

    Example: `users, items = hypergraph(softmax(user_logits), softmax(item_logits), item_table, num_layers=2)`
    """
    fits = user_incidence.dim() == item_incidence.dim() == items.dim() == 2
    if not fits or user_incidence.shape[1] != item_incidence.shape[1] or item_incidence.shape[0] != items.shape[0]:
        raise MmfastError(
            f"hypergraph: user_incidence is {list(user_incidence.shape)}, item_incidence {list(item_incidence.shape)}, "
            f"items {list(items.shape)}; wanted [U, A], [I, A] and [I, D]"
        )
    if num_layers < 1:
        raise MmfastError(f"hypergraph: num_layers is {num_layers}; choose 1 or more")
    edges = hyperedges(item_incidence, items, num_layers)
    return user_incidence @ edges, item_incidence @ edges


def hyperedges(item_incidence: torch.Tensor, items: torch.Tensor, num_layers: int = 1) -> torch.Tensor:
    """Return lat [A, D] of the last of L hypergraph layers: `hypergraph` is (H_u lat, H_i lat), of rank A.

    Arguments as `hypergraph` takes them, which checks them.

    Example: `edges = hyperedges(softmax(item_logits), item_table)`
    """
    edges = item_incidence.T @ items
    for _ in range(num_layers - 1):
        edges = item_incidence.T @ (item_incidence @ edges)
    return edges
