"""Graphs over users and items as CSR operators with a declared normalisation (protocol section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from mmfast.errors import MmfastError
from mmfast.ops import CSR, propagate, propagate_rows, sample_edges

DEGREE_EPS = 1e-7  # added to degrees by the references' symmetric normalisation (G-SYM)


class Graph(nn.Module):
    """A square operator over N nodes and its transpose; it moves between devices with the model that holds it."""

    def __init__(self, csr: CSR, transpose: CSR | None = None) -> None:
        """`transpose` None declares the operator symmetric: its gradient is then the operator itself."""
        super().__init__()
        self.symmetric = transpose is None
        for name, tensor in csr._asdict().items():
            # A symmetric operator has one scale: two buffers would part company when the module moves.
            if not (name == "col_scale" and self.symmetric):
                self.register_buffer(name, tensor, persistent=False)
        if transpose is not None:
            for name in ("ptr", "cols", "values"):
                self.register_buffer(f"{name}_t", getattr(transpose, name), persistent=False)

    @property
    def csr(self) -> CSR:
        """The operator."""
        col_scale = self.row_scale if self.symmetric else self.col_scale
        return CSR(self.ptr, self.cols, self.values, self.row_scale, col_scale)

    @property
    def transpose(self) -> CSR:
        """The transposed operator; `csr` itself where the operator is symmetric."""
        if self.symmetric:
            return self.csr
        return CSR(self.ptr_t, self.cols_t, self.values_t, self.col_scale, self.row_scale)

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return self.ptr.numel() - 1

    def propagate(self, x: torch.Tensor, num_layers: int, readout: str = "mean") -> torch.Tensor:
        """Return the read-out of `num_layers` products over x [N, D]: the mean, sum or last of E_0 .. E_L."""
        return propagate(self.csr, self.transpose, x, num_layers, readout)

    def propagate_rows(
        self, x: torch.Tensor, rows: torch.Tensor, num_layers: int, readout: str = "mean"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the read-out at `rows` (sorted, unique, [R]) alone, and x[rows]; the last layer visits only them."""
        return propagate_rows(self.csr, self.transpose, x, rows, num_layers, readout)

    def with_values(self, values: torch.Tensor) -> Graph:
        """Return the operator with the values [E] of entries in place of its own, scales kept; they may have a gradient.

        For graphs whose pattern is symmetric: entry (b, a) of the transpose takes the value of (a, b).
        """
        back = torch.argsort(self.cols, stable=True)  # the transpose of a symmetric pattern lists the same places
        return Graph(self.csr._replace(values=values), self.csr._replace(values=values.detach()[back]))

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the undirected edges of a symmetric graph as (lower node, higher node), in order, int32 [E] each."""
        ptr, cols = self.ptr.cpu().numpy(), self.cols.cpu().numpy()
        rows = np.repeat(np.arange(self.num_nodes, dtype=np.int32), np.diff(ptr))
        upper = rows < cols
        return rows[upper], cols[upper]

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"{self.num_nodes} nodes, {self.cols.numel()} entries, symmetric={self.symmetric}"


def symmetric_graph(rows: np.ndarray, cols: np.ndarray, num_nodes: int, eps: float = DEGREE_EPS) -> Graph:
    """Return the graph of undirected edges (rows[e], cols[e]) with entries 1 / sqrt((deg a + eps)(deg b + eps)).

    Edges are int arrays [E] with rows < cols, sorted by row then column, unique. eps > 0 is G-SYM; eps = 0 is G-SYM0,
    where a node without edges has scale 0.
    """
    degree = np.bincount(rows, minlength=num_nodes) + np.bincount(cols, minlength=num_nodes)
    ptr = np.zeros(num_nodes + 1, dtype=np.int64)
    np.cumsum(degree, out=ptr[1:])
    backward = np.argsort(cols, kind="stable")
    # A node's list holds its lower neighbours (from the reversed edges) first, then its higher ones: both ascending.
    both_rows = np.concatenate([cols[backward], rows])
    both_cols = np.concatenate([rows[backward], cols]).astype(np.int32)
    order = np.argsort(both_rows, kind="stable")
    with np.errstate(divide="ignore"):
        scale = np.where(degree + eps > 0, 1.0 / np.sqrt(degree + eps), 0.0).astype(np.float32)
    scale = torch.from_numpy(scale)
    return Graph(CSR(torch.from_numpy(ptr), torch.from_numpy(both_cols[order]), None, scale, scale))


def renormalised(graph: Graph, norm: str, eps: float = DEGREE_EPS) -> Graph:
    """Return the edges of a symmetric graph under another normalisation; d_a is the degree of node a.

    "sym": 1 / sqrt((d_a + eps)(d_b + eps)), 0 where that is not finite (eps = 0 is G-SYM0). "mean": 1 / d_a, the mean of
    the neighbours. "none": 1, their sum. "rw": a self loop is added to every node and rows are divided by their sum
    (G-RW+I). Raises MmfastError for another name.
    """
    ptr, cols, num_nodes = graph.ptr, graph.cols, graph.num_nodes
    degree = ptr.diff().double()
    if norm == "sym":
        scale = (degree + eps).rsqrt().nan_to_num(posinf=0.0).float()
        return Graph(CSR(ptr, cols, None, scale, scale))
    if norm == "none":
        return Graph(CSR(ptr, cols))
    if norm == "mean":
        scale = degree.reciprocal().nan_to_num(posinf=0.0).float()
        return Graph(CSR(ptr, cols, None, scale, None), CSR(ptr, cols, None, None, scale))
    if norm != "rw":
        raise MmfastError(f"graph: normalisation '{norm}' is unknown; choose one of sym, mean, none, rw")
    rows = torch.cat([graph.csr.rows(), torch.arange(num_nodes, device=cols.device)])
    both = torch.cat([cols, torch.arange(num_nodes, device=cols.device, dtype=cols.dtype)])
    order = torch.argsort(rows * num_nodes + both)
    looped = torch.arange(num_nodes + 1, device=ptr.device) + ptr
    scale = (degree + 1).reciprocal().float()
    operator = CSR(looped, both[order], None, scale, None)
    return Graph(operator, CSR(looped, both[order], None, None, scale))


def user_block(graph: Graph, num_users: int) -> Graph:
    """Return the U x I block of a symmetric user-item graph: what users collect from items, with its scales."""
    csr, split = graph.csr, int(graph.ptr[num_users])
    upper = CSR(csr.ptr[: num_users + 1].clone(), csr.cols[:split] - num_users)
    lower = CSR(csr.ptr[num_users:] - split, csr.cols[split:].clone())
    if csr.row_scale is None:
        return Graph(upper, lower)
    users, items = csr.row_scale[:num_users].clone(), csr.row_scale[num_users:].clone()
    return Graph(
        upper._replace(row_scale=users, col_scale=items), lower._replace(row_scale=items, col_scale=users)
    )


def user_item_graph(
    users: np.ndarray, items: np.ndarray, num_users: int, num_items: int, eps: float = DEGREE_EPS
) -> Graph:
    """Return the symmetric graph over N = U + I nodes (users first) of training pairs sorted by user then item."""
    return symmetric_graph(users, items.astype(np.int32) + np.int32(num_users), num_users + num_items, eps)


def edge_weights(rows: np.ndarray, cols: np.ndarray, num_nodes: int, eps: float = DEGREE_EPS) -> np.ndarray:
    """Return 1 / sqrt((deg a + eps)(deg b + eps)) of undirected edges, float64 [E]: G-DROP's sampling weights."""
    degree = np.bincount(rows, minlength=num_nodes) + np.bincount(cols, minlength=num_nodes) + eps
    return 1.0 / np.sqrt(degree[rows] * degree[cols])


def keep_edges(graph: Graph, rate: float, seed: int, stream: int = 0) -> np.ndarray:
    """Return the ids (into `graph.edges()`) that G-DROP(rate) keeps: floor(E (1 - rate)) of them.

    FREEDOM's sampling without replacement, likelier where degrees are low; it depends on (seed, stream) alone. The
    number kept is taken in floating point, as in the released code: 1 - 0.8 lies just below 0.2, so 10 edges keep 1.
    """
    rows, cols = graph.edges()
    weights = torch.from_numpy(edge_weights(rows, cols, graph.num_nodes))
    return sample_edges(weights, int(len(rows) * (1.0 - rate)), seed, stream).numpy()


def subgraph(graph: Graph, kept: np.ndarray, eps: float = DEGREE_EPS) -> Graph:
    """Return the graph of the kept edges (ids into `graph.edges()`), its degrees counted among them alone."""
    rows, cols = graph.edges()
    return symmetric_graph(rows[kept], cols[kept], graph.num_nodes, eps)


def directed_graph(rows: np.ndarray, cols: np.ndarray, values: np.ndarray, num_nodes: int) -> Graph:
    """Return the operator with the given entries (float32 values [E]); entries of one place are added up."""
    key = rows.astype(np.int64) * num_nodes + cols
    place, inverse = np.unique(key, return_inverse=True)
    summed = np.bincount(inverse, weights=values, minlength=len(place)).astype(np.float32)
    rows, cols = place // num_nodes, place % num_nodes
    back = np.argsort(cols, kind="stable")
    return Graph(_csr(rows, cols, summed, num_nodes), _csr(cols[back], rows[back], summed[back], num_nodes))


def _csr(rows: np.ndarray, cols: np.ndarray, values: np.ndarray, num_nodes: int) -> CSR:
    ptr = np.zeros(num_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=num_nodes), out=ptr[1:])
    return CSR(torch.from_numpy(ptr), torch.from_numpy(cols.astype(np.int32)), torch.from_numpy(values))


def mixed_neighbour_graph(
    neighbours: Mapping[str, np.ndarray], weights: Mapping[str, float], num_items: int, eps: float = DEGREE_EPS
) -> Graph:
    """Return K-MIX: the weighted sum over modalities of K-BIN, each a mean over a row's neighbours.

    neighbours: modality -> int [I, k] item ids, -1 where a row has fewer; entries of a row are 1 / (count + eps).
    """
    rows, cols, values = [], [], []
    for modality, ids in neighbours.items():
        present = ids >= 0
        counts = present.sum(1)
        rows.append(np.repeat(np.arange(num_items), counts))
        cols.append(ids[present])
        values.append(np.repeat(weights[modality] / (counts + eps), counts))
    return directed_graph(np.concatenate(rows), np.concatenate(cols), np.concatenate(values), num_items)


def drop_entries(graph: Graph, rate: float) -> Graph:
    """Return the graph with entries dropped at `rate`, each on its own, and the kept ones divided by 1 - rate.

    The two directions of an edge part company, so the result is not symmetric. Draws from torch's global generator.
    """
    csr = graph.csr
    keep = (torch.rand(csr.cols.shape, device=csr.cols.device) >= rate).to(csr.row_scale.dtype) / (1 - rate)
    return graph.with_values(keep if csr.values is None else keep * csr.values)
