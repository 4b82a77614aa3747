"""PartitionedGraph: a graph of which every rank has some rows, and propagation that each does for its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from mmfast.graph import Graph
from mmfast.ops import CSR, propagate_partitioned
from mmfast.ranks import all_rows, rank, sum_of_own, world_size

ROW_COST = 8
"""Entries of a graph that cost as much as reading and writing one row of the table."""


class PartitionedGraph(nn.Module):
    """A square operator [N, N], of which this rank has the rows between two of `bounds`; tables are whole everywhere.

    A layer, forward and backward, is: gather the table, multiply the rows that are here. The result has the bits of
    one process.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.bounds = balanced_bounds(graph.csr.ptr.cpu().numpy(), world_size())
        self.symmetric, self.num_nodes = graph.symmetric, graph.num_nodes
        self._keep("", graph.csr)
        if not graph.symmetric:
            self._keep("_t", graph.transpose)

    def propagate(self, x: torch.Tensor, num_layers: int, readout: str = "mean") -> torch.Tensor:
        """Return the read-out of `num_layers` products over x [N, D] or [N, T, D], all rows; every rank calls it."""
        if x.dim() > 2:
            return self.propagate(x.flatten(1), num_layers, readout).unflatten(1, x.shape[1:])
        first, last = self.bounds[rank() : rank() + 2]
        sizes = np.diff(self.bounds).tolist()
        known = [x.detach()]  # what the first layer would gather

        def gather(rows: torch.Tensor) -> torch.Tensor:
            return known.pop() if known else all_rows(rows, sizes)

        transpose = None if self.symmetric else self._block("_t")
        own = propagate_partitioned(self._block(""), x[first:last], gather, num_layers, readout, transpose)
        return join_blocks(own, self.bounds)

    def propagate_rows(
        self, x: torch.Tensor, rows: torch.Tensor, num_layers: int, readout: str = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the read-out at `rows` [R], which differ between ranks, and x[rows]; every rank calls it."""
        return self.propagate(x, num_layers, readout).index_select(0, rows), x.index_select(0, rows)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the edges of an undirected graph as (lower node, higher node), in order, int32 [E] each, gathered."""
        rows = self._block("").rows().int() + self.bounds[rank()]
        upper = rows < self.cols
        lower, higher = all_rows(torch.stack([rows[upper], self.cols[upper]], dim=1)).t().cpu().numpy()
        return lower, higher

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"{self.num_nodes} rows, {self.ptr.numel() - 1} and {self.cols.numel()} entries of them on this rank"

    def _keep(self, ending: str, operator: CSR) -> None:
        block = operator.block(*self.bounds[rank() : rank() + 2])
        for name, tensor in block._asdict().items():
            self.register_buffer(name + ending, None if tensor is None else tensor.clone(), persistent=False)

    def _block(self, ending: str) -> CSR:
        return CSR(*(getattr(self, name + ending) for name in CSR._fields))


def join_blocks(rows: torch.Tensor, bounds: list[int]) -> torch.Tensor:
    """Return the blocks of rows of all ranks, which lie between neighbouring `bounds`, as one; every rank calls it.

    The gradient of this rank's block is the sum of what every rank has for it.
    """
    return _Joined.apply(rows, bounds)


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, bounds: list[int]) -> torch.Tensor:
        ctx.bounds = bounds
        return all_rows(rows.detach(), np.diff(bounds).tolist())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return sum_of_own(grad, ctx.bounds), None


def balanced_bounds(ptr: np.ndarray, parts: int) -> list[int]:
    """Return where parts of about equal cost begin and end, by the entries of their rows; parts + 1 numbers.

    >>> balanced_bounds(np.array([0, 90, 91, 92, 93]), 2)
    [0, 1, 4]
    """
    cost = ptr + ROW_COST * np.arange(len(ptr))
    targets = cost[-1] * np.arange(1, parts) / parts
    inner = np.searchsorted(cost, targets)
    return [0, *np.minimum(inner, len(ptr) - 1).tolist(), len(ptr) - 1]


def divisible_graphs(module: nn.Module) -> list[tuple[nn.Module, str, Graph]]:
    """Return the square graphs of a module whose entries are fixed, each with its parent and its name there."""
    children = [(parent, name, part) for parent in list(module.modules()) for name, part in parent.named_children()]
    return [
        (parent, name, graph)
        for parent, name, graph in children
        if type(graph) is Graph and graph.order is None and graph.transpose.num_rows == graph.num_nodes
    ]


def partition_graphs(module: nn.Module) -> None:
    """Put a PartitionedGraph in the place of every square graph of a module whose entries are fixed."""
    for parent, name, graph in divisible_graphs(module):
        setattr(parent, name, PartitionedGraph(graph))
