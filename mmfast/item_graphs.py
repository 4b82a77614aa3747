"""Item graphs from the features of several modalities: K-BIN, K-COS, K-MIX and the union (protocol section 8)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from mmfast.errors import MmfastError
from mmfast.graph import Graph, cosine_neighbour_graph, directed_graph, mixed_neighbour_graph
from mmfast.ops import knn_graph
from mmfast.ops.knn_graph import BLOCK_BYTES

KINDS = ("bin", "cosine")


def item_graphs(
    features: Mapping[str, torch.Tensor | np.ndarray],
    k: int = 10,
    kind: str = "bin",
    block_bytes: int = BLOCK_BYTES,
    precision: str = "auto",
) -> dict[str, Graph]:
    """Return for each modality the graph of the k most similar items by cosine, itself included, on the CPU.

    features: modality -> [I, F], as `knn_graph` takes them. kind: "bin" (K-BIN: a mean over the neighbours) or "cosine"
    (K-COS: cosines, divided by the roots of both row sums). An item without features is its own only neighbour in
    K-BIN, and alone in K-COS.
    Raises MmfastError for another kind, for modalities of different numbers of items, and as `knn_graph`.

    >>> graphs = item_graphs({"image": torch.eye(3), "text": torch.ones(3, 2)}, k=2)
    >>> mixed_graph(graphs, {"image": 0.1, "text": 0.9}).num_nodes
    3
    """
    if kind not in KINDS:
        raise MmfastError(f"item_graphs: kind is '{kind}'; choose {' or '.join(KINDS)}")
    sizes = {modality: len(table) for modality, table in features.items()}
    if len(set(sizes.values())) > 1:
        raise MmfastError(f"item_graphs: the modalities have {sizes} items; wanted one row per item in each")
    graphs = {}
    for modality, table in features.items():
        ids, cosines = (t.cpu().numpy() for t in knn_graph(table, k, block_bytes=block_bytes, precision=precision))
        if kind == "bin":
            graphs[modality] = mixed_neighbour_graph({modality: ids}, {modality: 1.0}, len(ids))
        else:
            graphs[modality] = cosine_neighbour_graph(ids, cosines, len(ids))
    return graphs


def mixed_graph(graphs: Mapping[str, Graph], weights: Mapping[str, float]) -> Graph:
    """Return the sum over modalities of weight * graph: K-MIX for graphs of kind "bin", with weights that add up to 1.

    Raises MmfastError where the names of `graphs` and `weights` differ.
    """
    if set(graphs) != set(weights) or not graphs:
        raise MmfastError(f"mixed_graph: graphs of {sorted(graphs)} and weights of {sorted(weights)}; wanted the same")
    rows, cols, values = _entries(graphs.values())
    sizes = [graph.cols.numel() for graph in graphs.values()]
    return directed_graph(rows, cols, values * np.repeat([weights[m] for m in graphs], sizes), _num_nodes(graphs))


def union_graph(graphs: Mapping[str, Graph]) -> Graph:
    """Return the graph of the entries of any modality; where several have one, the largest (SMORE's K_f)."""
    if not graphs:
        raise MmfastError("union_graph: no graphs; give one or more")
    rows, cols, values = _entries(graphs.values())
    num_nodes = _num_nodes(graphs)
    place = rows * num_nodes + cols
    order = np.argsort(place, kind="stable")
    unique, first = np.unique(place[order], return_index=True)
    largest = np.maximum.reduceat(values[order], first) if len(first) else values
    return directed_graph(unique // num_nodes, unique % num_nodes, largest, num_nodes)


def _num_nodes(graphs: Mapping[str, Graph]) -> int:
    sizes = {modality: graph.num_nodes for modality, graph in graphs.items()}
    if len(set(sizes.values())) > 1:
        raise MmfastError(f"item graphs of {sizes} items; wanted the same number in each")
    return next(iter(sizes.values()))


def _entries(graphs: Collection[Graph]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (rows int64, columns, values float64) of all stored entries, graph after graph."""
    rows, cols, values = [], [], []
    for graph in graphs:
        ptr, col, value, row_scale, col_scale = (None if t is None else t.cpu().numpy() for t in graph.csr)
        row = np.repeat(np.arange(graph.num_nodes), np.diff(ptr))
        value = np.ones(len(row)) if value is None else value.astype(np.float64)
        for scale, ends in ((row_scale, row), (col_scale, col)):
            value = value if scale is None else value * scale[ends]
        rows, cols, values = [*rows, row], [*cols, col], [*values, value]
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(values)
