"""The ops: each has a native kernel per device, a plain-PyTorch reference, a fake kernel and a gradient.

On CUDA they run on the current stream, without waiting, and a CUDA graph can capture them, gradients included. Not so
those whose host reads a number of the device: compact_ids the size of its result; sample_negatives, sample_edges, rank,
knn_graph, knn_update and knn_count which entry to name in an error; knn_threshold the number of edges too.
A captured graph repeats the numbers that it was captured with, such as the seed and the draw of a sampler; the step of
the Adam ops may be a tensor, which the graph counts up.
"""

from mmfast.ops._backend import backend, use_backend
from mmfast.ops.adam_lazy import adam_catch_up_, adam_lazy_
from mmfast.ops.adam_rows import adam_rows_
from mmfast.ops.bpr_loss import bpr_loss
from mmfast.ops.ckd_loss import ckd_loss
from mmfast.ops.compact_ids import compact_ids
from mmfast.ops.cosine_loss import cosine_loss
from mmfast.ops.csr import CSR
from mmfast.ops.dct import dct, idct
from mmfast.ops.edge_attention import edge_attention
from mmfast.ops.edge_gather import edge_gather, edge_sum
from mmfast.ops.edge_softmax import edge_softmax
from mmfast.ops.edges import Edges
from mmfast.ops.gathered_norm import gathered_norm
from mmfast.ops.hypergraph import hyperedges, hypergraph
from mmfast.ops.info_nce import info_nce
from mmfast.ops.knn_graph import knn_graph, knn_update
from mmfast.ops.knn_threshold import knn_count, knn_threshold
from mmfast.ops.moments import moment_alignment, moments
from mmfast.ops.project_rows import project_rows
from mmfast.ops.propagate import propagate, propagate_rows
from mmfast.ops.propagate_partitioned import propagate_partitioned
from mmfast.ops.rank import rank
from mmfast.ops.regularisers import frobenius_reg, half_square_reg, mean_square_reg
from mmfast.ops.sample_edges import sample_edges
from mmfast.ops.sample_negatives import sample_negatives
from mmfast.ops.sample_users import sample_triples, sample_user_rows
from mmfast.ops.split_batch import batch_count, batch_mean, batch_rows
from mmfast.ops.target_contrast import target_contrast
from mmfast.ops.target_pool import target_pool
from mmfast.ops.transfer_kl import transfer_kl
from mmfast.ops.triple_margins import triple_margins

__all__ = [
    "CSR",
    "Edges",
    "adam_catch_up_",
    "adam_lazy_",
    "adam_rows_",
    "backend",
    "batch_count",
    "batch_mean",
    "batch_rows",
    "bpr_loss",
    "ckd_loss",
    "compact_ids",
    "cosine_loss",
    "dct",
    "edge_attention",
    "edge_gather",
    "edge_softmax",
    "edge_sum",
    "frobenius_reg",
    "gathered_norm",
    "half_square_reg",
    "hyperedges",
    "hypergraph",
    "idct",
    "info_nce",
    "knn_count",
    "knn_graph",
    "knn_threshold",
    "knn_update",
    "mean_square_reg",
    "moment_alignment",
    "moments",
    "project_rows",
    "propagate",
    "propagate_partitioned",
    "propagate_rows",
    "rank",
    "sample_edges",
    "sample_negatives",
    "sample_triples",
    "sample_user_rows",
    "target_contrast",
    "target_pool",
    "transfer_kl",
    "triple_margins",
    "use_backend",
]
