"""The items whose vectors are nearest (by cosine) to those of given items."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast similar runs/quick --items B00005 B00012 -k 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast similar`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--items", nargs="+", required=True, metavar="ID", help="original item ids")
    parser.add_argument("-k", type=int, default=10, help="items per item, at most all others (default 10)")
    parser.add_argument("--out", metavar="FILE", help="write .parquet or .csv there instead of printing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """Print or write similar items."""
    from mmfast.commands.show import write_or_print
    from mmfast.recommend import similar_items
    from mmfast.run import Run

    write_or_print(similar_items(Run.load(args.run_folder, device=args.device), args.items, args.k), args.out)
    return 0
