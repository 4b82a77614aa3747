"""The ops: each has a native kernel per device, a plain-PyTorch reference, a fake kernel and a gradient."""

from mmfast.ops._backend import backend, use_backend
from mmfast.ops.adam_rows import adam_rows_
from mmfast.ops.bpr_loss import bpr_loss
from mmfast.ops.compact_ids import compact_ids
from mmfast.ops.csr import CSR
from mmfast.ops.dct import dct, idct
from mmfast.ops.edge_attention import edge_attention
from mmfast.ops.edge_gather import edge_gather, edge_sum
from mmfast.ops.edge_softmax import edge_softmax
from mmfast.ops.edges import Edges
from mmfast.ops.gathered_norm import gathered_norm
from mmfast.ops.hypergraph import hypergraph
from mmfast.ops.knn_graph import knn_graph
from mmfast.ops.project_rows import project_rows
from mmfast.ops.propagate import propagate, propagate_rows
from mmfast.ops.propagate_partitioned import propagate_partitioned
from mmfast.ops.rank import rank
from mmfast.ops.regularisers import frobenius_reg, half_square_reg
from mmfast.ops.sample_edges import sample_edges
from mmfast.ops.sample_negatives import sample_negatives

__all__ = [
    "CSR",
    "Edges",
    "adam_rows_",
    "backend",
    "bpr_loss",
    "compact_ids",
    "dct",
    "edge_attention",
    "edge_gather",
    "edge_softmax",
    "edge_sum",
    "frobenius_reg",
    "gathered_norm",
    "half_square_reg",
    "hypergraph",
    "idct",
    "knn_graph",
    "project_rows",
    "propagate",
    "propagate_partitioned",
    "propagate_rows",
    "rank",
    "sample_edges",
    "sample_negatives",
    "use_backend",
]
