"""Time of a batch's mean and rows over ranks that each have a part of it, against torch's collectives with gradients.

Run from the repository: `python bench/split_batch.py [--batch 2048] [--ranks 2] [--json]`. The size is that of the
batch, whatever the data set.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist
from _common import measure
from _losses import stepping
from _ranks import on_ranks
from torch.distributed.nn.functional import all_gather, all_reduce

from mmfast.ops import batch_mean, batch_rows
from mmfast.ops.split_batch import Split, split_over
from mmfast.ranks import rank


def cases(options: argparse.Namespace, facts: dict) -> Iterator[dict]:
    """Yield both functions; every rank calls it."""
    warnings.simplefilter("ignore", FutureWarning)  # newer names of the collectives have no public gradient
    ranks = dist.get_world_size()
    part = options.batch // ranks
    rows = torch.randn(part, options.width, generator=torch.Generator().manual_seed(rank()))
    ways = {
        "batch_mean": (
            lambda x: batch_mean(x.mean()),
            {"torch all_reduce": lambda x: all_reduce(x.mean()) / ranks},
            4 * 2 * rows.numel(),
        ),
        "batch_rows": (batch_rows, {"torch all_gather": lambda x: torch.cat(all_gather(x))}, 8 * ranks * rows.numel()),
    }
    with split_over(Split((part,) * ranks, rank())):
        for op, (ours, others, least) in ways.items():
            steps = {name: stepping(way, (rows,)) for name, way in others.items()}
            label, sized = f"{ranks} ranks of {part} x {options.width}", facts | {"least_bytes": least}
            yield measure(op, label, "forward+backward", stepping(ours, (rows,)), steps, **sized)


if __name__ == "__main__":
    on_ranks(__doc__, cases)
