"""Time of propagation over a graph whose rows are divided among processes of this machine, forward and backward.

A layer gathers the table from the ranks by gloo and multiplies the rows that are here. The ranks share the machine's
cores, so this measures what the division costs, not what more machines gain. "products alone" is the same without
the gathering: its ratio is the share of the products. Run: `python bench/propagate_partitioned.py [--shapes elec]`.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from _common import measure, power_law_graph, shapes
from _losses import stepping
from _ranks import on_ranks

from mmfast.distributed.partitioned_graph import balanced_bounds
from mmfast.ops import propagate, propagate_partitioned
from mmfast.ranks import all_rows, rank

LAYERS = 3


def torch_step(block, num_cols, x, gather):
    """The layers over this rank's rows by torch CSR, and again for the gradient: the operator is symmetric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout a beta
        values = block.entries(torch.float32)
        matrix = torch.sparse_csr_tensor(
            block.ptr.int(), block.cols, values, (len(x), num_cols), check_invariants=False
        )

    def run():
        for _ in range(2):
            layer = total = x
            for _ in range(LAYERS):
                layer = matrix @ gather(layer)
                total = total + layer

    return run


def cases(options: argparse.Namespace, facts: dict) -> Iterator[dict]:
    """Yield one case per shape; every rank calls it."""
    for name in options.shapes:
        csr = power_law_graph(shapes[name]).csr
        bounds = balanced_bounds(csr.ptr.numpy(), dist.get_world_size())
        sizes = [last - first for first, last in itertools.pairwise(bounds)]
        first, last = bounds[rank() : rank() + 2]
        block = csr.block(first, last)
        table = torch.randn(csr.num_rows, options.width, generator=torch.Generator().manual_seed(1))
        x, gather = table[first:last].clone(), partial(all_rows, sizes=sizes)

        def ours(x, gather=gather, block=block):
            return propagate_partitioned(block, x, gather, LAYERS)

        others = {
            "torch CSR int32, the same rows": torch_step(block, csr.num_rows, x, gather),
            "products alone": stepping(partial(ours, gather=lambda rows, table=table: table), (x,)),
            "every rank all rows": stepping(lambda x, csr=csr: propagate(csr, csr, x, LAYERS), (table,)),
        }
        index = (block.num_rows + 1) * 8 + block.num_entries * 8
        # a layer reads the gathered table and the rows' sums so far, and writes the rows
        least = 2 * LAYERS * (table.nbytes + 2 * x.nbytes + index)
        flops = 4 * LAYERS * block.num_entries * options.width
        label = f"{name}, rank 0 of {dist.get_world_size()}, {block.num_rows} of {csr.num_rows} rows"
        kind = f"forward+backward, {LAYERS} layers"
        sized = facts | {"least_bytes": least, "least_flops": flops}
        yield measure("propagate_partitioned", label, kind, stepping(ours, (x,)), others, **sized)


if __name__ == "__main__":
    on_ranks(__doc__, cases)
