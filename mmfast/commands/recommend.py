"""The best items for users of a trained run, by their original ids; items of their training history are left out."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast recommend runs/quick --users A1YKK8 A3BXC2 -k 5
  mmfast recommend runs/quick --users-file users.txt --out recommendations.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast recommend`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--users", nargs="+", metavar="ID", help="original user ids")
    who.add_argument("--users-file", metavar="FILE", help=".txt (one id a line), .csv or .parquet (column user)")
    parser.add_argument("-k", type=int, default=10, help="items per user, at most all items (default 10)")
    parser.add_argument("--include-seen", action="store_true", help="also recommend items of the training history")
    parser.add_argument("--out", metavar="FILE", help="write .parquet or .csv there instead of printing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """Print or write recommendations."""
    from mmfast.commands.show import write_or_print
    from mmfast.recommend import read_ids, recommend
    from mmfast.run import Run

    users = args.users or read_ids(args.users_file)
    finished = Run.load(args.run_folder, device=args.device)
    write_or_print(recommend(finished, users, args.k, exclude_seen=not args.include_seen), args.out)
    return 0
