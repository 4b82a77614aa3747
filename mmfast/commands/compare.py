"""Compare two finished runs user by user on test: difference, 95 % interval over users, and paired p-value."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast compare runs/lightgcn runs/freedom
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast compare`."""
    parser.add_argument("run_a", metavar="RUN_A", help="folder of a finished run")
    parser.add_argument("run_b", metavar="RUN_B", help="folder of another run on the same data")


def run(args: argparse.Namespace) -> int:
    """Print one line per metric."""
    from mmfast.commands.show import table
    from mmfast.significance import compare

    rows = [["metric", "A", "B", "B - A", "95 % interval", "p"]]
    for row in compare(args.run_a, args.run_b).iter_rows(named=True):
        interval = f"[{row['low']:+.5f}, {row['high']:+.5f}]"
        numbers = [f"{row['a']:.5f}", f"{row['b']:.5f}", f"{row['difference']:+.5f}", interval, f"{row['p']:.2g}"]
        rows.append([row["metric"], *numbers])
    print(f"A = {args.run_a}, B = {args.run_b}, test part")
    print(table(rows))
    return 0
