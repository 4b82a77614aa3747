"""Measuring on processes of this machine that are joined by gloo, as the ranks of a job are."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _cli import SIZES, shape_parser
from _common import emit, stream_bandwidth

from mmfast.device import keep_freed_memory
from mmfast.ranks import join_group, leave_ranks

LOCKSTEP = {"budget": math.inf}
"""Facts for `measure` on ranks: the time that a call takes must not decide how often it is made."""


def on_ranks(description: str, cases: Callable[[argparse.Namespace, dict], Iterable[dict]]) -> None:
    """Print the cases of the first rank; cases(options, facts) runs on every rank, `facts` are for `measure`."""
    parser = shape_parser(description, SIZES[:3], repeat=7)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    options = parser.parse_args()
    options.threads = max(1, options.threads // options.ranks)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (options, f"{folder}/meet", cases), nprocs=options.ranks)


def _rank(number: int, options: argparse.Namespace, meet: str, cases: Callable) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    join_group(dist.FileStore(meet, options.ranks), number, options.ranks)
    dist.barrier()  # so that the ranks share the memory while they measure it
    facts = LOCKSTEP | {"repeat": options.repeat, "limit": stream_bandwidth()}
    for case in cases(options, facts):
        if number == 0:
            emit(case, options.json)
    leave_ranks()
