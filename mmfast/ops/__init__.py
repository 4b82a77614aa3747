"""The ops: each has a native kernel per device, a plain-PyTorch reference, a fake kernel and a gradient."""

from mmfast.ops._backend import backend, use_backend
from mmfast.ops.adam_rows import adam_rows_
from mmfast.ops.bpr_loss import bpr_loss
from mmfast.ops.compact_ids import compact_ids
from mmfast.ops.csr import CSR
from mmfast.ops.gathered_norm import gathered_norm
from mmfast.ops.knn_graph import knn_graph, knn_update
from mmfast.ops.knn_threshold import knn_count, knn_threshold
from mmfast.ops.project_rows import project_rows
from mmfast.ops.propagate import propagate, propagate_rows
from mmfast.ops.rank import rank
from mmfast.ops.regularisers import frobenius_reg, half_square_reg
from mmfast.ops.sample_edges import sample_edges
from mmfast.ops.sample_negatives import sample_negatives

__all__ = [
    "CSR",
    "adam_rows_",
    "backend",
    "bpr_loss",
    "compact_ids",
    "frobenius_reg",
    "gathered_norm",
    "half_square_reg",
    "knn_count",
    "knn_graph",
    "knn_threshold",
    "knn_update",
    "project_rows",
    "propagate",
    "propagate_rows",
    "rank",
    "sample_edges",
    "sample_negatives",
    "use_backend",
]
