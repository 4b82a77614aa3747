"""The command line that the benchmarks over shapes of data sets share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

import torch
from _common import emit, shapes, stream_bandwidth

from mmfast.device import keep_freed_memory

SIZES = ["baby", "sports", "elec", "elec10"]
"""The shapes that a benchmark of an op measures where nothing else is asked for."""


def shape_parser(
    description: str, default: list[str], names: Iterable[str] = tuple(shapes), repeat: int = 15
) -> argparse.ArgumentParser:
    """Return a parser of --shapes (of `names`), --repeat, --threads and --json, to which a script adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(names), default=default)
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="one JSON object per case")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options of the command line; the threads are set, and freed memory is kept as training keeps it."""
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # else the pages of a fresh table cost as much as its numbers, and unevenly
    return options


def emit_shapes(options: argparse.Namespace, run: Callable[[str, argparse.Namespace], Iterable[dict]]) -> None:
    """Print the cases of run(shape, options) for every shape asked for."""
    for name in options.shapes:
        for case in run(name, options):
            emit(case, options.json)


def stream_facts(options: argparse.Namespace) -> dict[str, object]:
    """Return the facts of `measure` for ops that the stream limits: device, limit, repeat."""
    return {"device": options.device, "limit": stream_bandwidth(options.device), "repeat": options.repeat}
