"""Graphs over users and items as CSR operators with a declared normalisation (protocol section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from mmfast.errors import MmfastError
from mmfast.ops import CSR, Edges, propagate, propagate_rows, sample_edges

DEGREE_EPS = 1e-7  # added to degrees by the references' symmetric normalisation (G-SYM)
NORMS = ("sym", "sym0", "rw", "mean", "plain")


class Graph(nn.Module):
    """An operator R x C and its transpose; it moves between devices with the model that holds it."""

    def __init__(self, csr: CSR, transpose: CSR | None = None, order: torch.Tensor | None = None) -> None:
        """`transpose` None declares the operator symmetric: its gradient is then the operator itself.

        order: int32 [E], the entry of `csr` behind each entry of the transpose; it lets `propagate` take edge values.
        """
        super().__init__()
        self.symmetric = transpose is None
        if transpose is None:
            transpose = csr
        for name in ("ptr", "cols", "values"):
            mine, other = getattr(csr, name), getattr(transpose, name)
            self.register_buffer(name, mine, persistent=False)
            # What both directions share is one buffer: two would part company when the module moves.
            self.register_buffer(f"{name}_t", None if other is mine else other, persistent=False)
        self.register_buffer("row_scale", csr.row_scale, persistent=False)
        self.register_buffer("col_scale", None if self.symmetric else csr.col_scale, persistent=False)
        self.register_buffer("order", order, persistent=False)

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
        ptr, cols = (
            (self.ptr if self.ptr_t is None else self.ptr_t),
            (self.cols if self.cols_t is None else self.cols_t),
        )
        values = self.values if self.values_t is None else self.values_t
        return CSR(ptr, cols, values, self.col_scale, self.row_scale)

    @property
    def num_nodes(self) -> int:
        """Number of rows R: of nodes, where the operator is square."""
        return self.ptr.numel() - 1

    def propagate(
        self,
        x: torch.Tensor,
        num_layers: int,
        readout: str = "mean",
        dtype: torch.dtype | None = None,
        values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the read-out of `num_layers` products over x [C, D]: the mean, sum or last of E_0 .. E_L.

        values: float [E] in the order of `csr`, in place of the stored ones and with a gradient; the scales stay.
        The rest as in `mmfast.ops.propagate`.
        """
        return propagate(*self._operators(values), x, num_layers, readout, dtype)

    def propagate_rows(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        num_layers: int,
        readout: str = "mean",
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the read-out at `rows` (sorted, unique, [R]) alone, and x[rows]; `mmfast.ops.propagate_rows`."""
        return propagate_rows(self.csr, self.transpose, x, rows, num_layers, readout, dtype)

    def _operators(self, values: torch.Tensor | None) -> tuple[CSR, CSR]:
        if values is None:
            return self.csr, self.transpose
        if self.order is None:
            raise MmfastError("propagate: this graph takes no edge values; build it with edge_graph")
        if values.shape != self.cols.shape:
            raise MmfastError(
                f"propagate: values are {list(values.shape)}; wanted one for each entry, {list(self.cols.shape)}"
            )
        csr, transpose = self.csr, self.transpose
        return csr._replace(values=values), transpose._replace(values=values.detach().index_select(0, self.order))

    def incoming(self) -> Edges:
        """Return the entries by row and by column, as the ops on edges take them; for graphs made by edge_graph."""
        if self.order is None:
            raise MmfastError("incoming: this graph keeps no order of its transpose; build it with edge_graph")
        transpose = self.transpose
        return Edges(self.ptr, self.cols, transpose.ptr, transpose.cols, self.order)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the edges of an undirected graph as (lower node, higher node), in order, int32 [E] each."""
        ptr, cols = self.ptr.cpu().numpy(), self.cols.cpu().numpy()
        rows = np.repeat(np.arange(self.num_nodes, dtype=np.int32), np.diff(ptr))
        upper = rows < cols
        return rows[upper], cols[upper]

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"{self.num_nodes} rows, {self.cols.numel()} entries, symmetric={self.symmetric}"


def symmetric_graph(rows: np.ndarray, cols: np.ndarray, num_nodes: int, eps: float = DEGREE_EPS) -> Graph:
    """Return the graph of undirected edges (rows[e], cols[e]) with entries 1 / sqrt((deg a + eps)(deg b + eps)).

    Edges are int arrays [E] with rows < cols, sorted by row then column, unique. eps > 0 is G-SYM; eps = 0 is G-SYM0,
    where a node without edges has no entries. The entries are stored: one more number read in order costs less than
    one degree read at random.
    """
    ptr, rows, cols = _both_directions(rows, cols, num_nodes)
    scale = _inverse(np.sqrt(np.diff(ptr) + eps))
    return Graph(_csr(ptr, cols, scale[rows] * scale[cols]))


def user_item_graph(
    users: np.ndarray,
    items: np.ndarray,
    num_users: int,
    num_items: int,
    norm: str = "sym",
    eps: float = DEGREE_EPS,
) -> Graph:
    """Return the graph over N = U + I nodes (users first) of training pairs sorted by user then item, normalised.

    norm: "sym" (G-SYM: 1 / sqrt((deg a + eps)(deg b + eps))), "sym0" (G-SYM0: the same with eps = 0), "rw" (G-RW+I:
    self loops added, rows divided by degree + 1), "mean" (rows divided by degree), "plain" (ones).
    Raises MmfastError for another norm.

    Example: `user_item_graph(pairs.users, pairs.items, U, I, norm="rw").propagate(table, 2)`
    """
    _check_norm("user_item_graph", norm, NORMS)
    nodes, num_nodes = items.astype(np.int32) + np.int32(num_users), num_users + num_items
    if norm in ("sym", "sym0"):
        return symmetric_graph(users, nodes, num_nodes, eps if norm == "sym" else 0.0)
    ptr, _, cols = _both_directions(users, nodes, num_nodes, loops=norm == "rw")
    csr = _csr(ptr, cols)
    if norm == "plain":
        return Graph(csr)
    scale = torch.from_numpy(_inverse(np.diff(ptr)).astype(np.float32))
    return Graph(csr._replace(row_scale=scale), csr._replace(col_scale=scale))


def user_item_block(
    users: np.ndarray,
    items: np.ndarray,
    num_users: int,
    num_items: int,
    norm: str = "sym0",
    rows: str = "users",
    eps: float = DEGREE_EPS,
) -> Graph:
    """Return the block R of `user_item_graph` that gives users from items [I, D]; rows="items": items from users.

    norm: "sym0" (R-SYM0), "sym", "mean" (each row a mean) or "plain". Pairs are sorted by user then item. Propagate
    with one layer, read out as "last". Raises MmfastError for another norm or other rows.
    """
    _check_norm("user_item_block", norm, [n for n in NORMS if n != "rw"])
    if rows not in ("users", "items"):
        raise MmfastError(f"user_item_block: rows is '{rows}'; choose users or items")
    ends = [(users, num_users), (items, num_items)]
    (row, num_rows), (col, num_cols) = ends if rows == "users" else ends[::-1]
    degree = np.bincount(row, minlength=num_rows), np.bincount(col, minlength=num_cols)
    values = None
    if norm in ("sym", "sym0"):
        add = eps if norm == "sym" else 0.0
        values = _inverse(np.sqrt(degree[0] + add))[row] * _inverse(np.sqrt(degree[1] + add))[col]
    csr, transpose, _ = _pair(row, col, values, num_rows, num_cols)
    if norm == "mean":
        scale = torch.from_numpy(_inverse(degree[0]).astype(np.float32))
        csr, transpose = csr._replace(row_scale=scale), transpose._replace(col_scale=scale)
    return Graph(csr, transpose)


def edge_graph(rows: np.ndarray, cols: np.ndarray, num_rows: int, num_cols: int) -> Graph:
    """Return the operator with ones at (rows[e], cols[e]) that takes learned values, `propagate(..., values=v)`.

    The values are in the order of `graph.csr`: by row, entries of one row as given. Attention, learned item graphs and
    masked graphs are this operator with values of their own. Raises MmfastError for 2^31 entries and more.
    """
    if len(rows) >= 2**31:
        raise MmfastError(f"edge_graph: there are {len(rows)} entries; wanted less than 2^31")
    csr, transpose, order = _pair(rows, cols, None, num_rows, num_cols)
    return Graph(csr, transpose, order.int())


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
    """Return the operator with the given entries (float [E]); entries of one place are added up."""
    key = rows.astype(np.int64) * num_nodes + cols
    place, inverse = np.unique(key, return_inverse=True)
    summed = np.bincount(inverse, weights=values, minlength=len(place))
    csr, transpose, _ = _pair(place // num_nodes, place % num_nodes, summed, num_nodes, num_nodes)
    return Graph(csr, transpose)


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


def cosine_neighbour_graph(neighbours: np.ndarray, cosines: np.ndarray, num_items: int) -> Graph:
    """Return K-COS: entries cos_ij / sqrt(r_i r_j), r the row sums of the cosines kept.

    neighbours: int [I, k] item ids, -1 where a row has fewer; cosines: float [I, k]. A row sum of 0 gives entries 0.
    Raises MmfastError where a row sum is negative, which has no root.
    """
    present = neighbours >= 0
    rows = np.repeat(np.arange(num_items), present.sum(1))
    cols, values = neighbours[present], cosines[present].astype(np.float64)
    sums = np.bincount(rows, weights=values, minlength=num_items)
    if (sums < 0).any():
        raise MmfastError(
            f"cosine_neighbour_graph: the cosines of item {np.argmin(sums)} add up to {sums.min():.3g}; "
            "wanted sums of 0 or more: choose fewer neighbours or a threshold"
        )
    scale = _inverse(np.sqrt(sums))
    return directed_graph(rows, cols, values * scale[rows] * scale[cols], num_items)


def _check_norm(caller: str, norm: str, norms: Sequence[str]) -> None:
    if norm not in norms:
        raise MmfastError(f"{caller}: norm is '{norm}'; choose one of {', '.join(norms)}")


def _inverse(x: np.ndarray) -> np.ndarray:
    """Return 1 / x, and 0 where x is 0."""
    return np.divide(1.0, x, out=np.zeros(len(x)), where=x > 0)


def _both_directions(
    rows: np.ndarray, cols: np.ndarray, num_nodes: int, loops: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ptr, rows and columns of undirected edges (rows < cols, sorted), with or without self loops."""
    backward = np.argsort(cols, kind="stable")
    diagonal = np.arange(num_nodes if loops else 0, dtype=np.int32)
    # A node's list holds its lower neighbours (the reversed edges) first, then itself, then the higher: ascending.
    both_rows = np.concatenate([cols[backward], diagonal, rows])
    both_cols = np.concatenate([rows[backward], diagonal, cols]).astype(np.int32)
    order = np.argsort(both_rows, kind="stable")
    return _ptr(both_rows, num_nodes), both_rows[order], both_cols[order]


def _ptr(rows: np.ndarray, num_rows: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))])


def _csr(ptr: np.ndarray, cols: np.ndarray, values: np.ndarray | None = None) -> CSR:
    stored = None if values is None else torch.from_numpy(values.astype(np.float32))
    return CSR(torch.from_numpy(ptr.astype(np.int64)), torch.from_numpy(cols.astype(np.int32)), stored)


def _pair(
    rows: np.ndarray, cols: np.ndarray, values: np.ndarray | None, num_rows: int, num_cols: int
) -> tuple[CSR, CSR, torch.Tensor]:
    """Return the operator with these entries, its transpose, and the entry behind each entry of the transpose."""
    by_row = np.argsort(rows, kind="stable")
    rows, cols = rows[by_row], cols[by_row]
    values = None if values is None else values[by_row]
    by_col = np.argsort(cols, kind="stable")
    csr = _csr(_ptr(rows, num_rows), cols, values)
    transpose = _csr(_ptr(cols, num_cols), rows[by_col], None if values is None else values[by_col])
    return csr, transpose, torch.from_numpy(by_col)


def user_item_pairs(graph: Graph, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of a user-item graph as (users, items), sorted, int32 [E] each: to normalise them anew."""
    users, nodes = graph.edges()
    return users, nodes - np.int32(num_users)


def drop_entries(graph: Graph, rate: float) -> Graph:
    """Return a symmetric graph with entries dropped at `rate`, each on its own, the kept ones divided by 1 - rate.

    The two directions of an edge part company. Draws from torch's global generator. The first call finds the order of
    the transpose, which the graph keeps.
    """
    if graph.order is None:
        graph.order = torch.argsort(graph.cols, stable=True).int()  # (c, r) behind (r, c): the pattern is symmetric
    csr = graph.csr
    keep = (torch.rand(csr.cols.shape, device=csr.cols.device) >= rate).to(csr.values.dtype)
    values = keep * csr.values / (1 - rate)
    back = values.index_select(0, graph.order)
    return Graph(csr._replace(values=values), csr._replace(values=back), graph.order)
