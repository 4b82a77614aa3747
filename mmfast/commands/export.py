"""Write what serving needs: a FAISS index of the items, and user and item vectors with their original ids."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  mmfast export runs/quick --out serving                      index.faiss, users.npy, items.npy, ids
  mmfast export runs/quick --out serving --vectors parquet --no-index
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast export`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder that receives the files")
    parser.add_argument("--vectors", choices=("npy", "parquet"), default="npy", help="how vectors are written")
    parser.add_argument("--no-index", action="store_true", help="no FAISS index")


def run(args: argparse.Namespace) -> int:
    """Write the files and print their names."""
    from mmfast.export import export_index, export_vectors
    from mmfast.run import Run

    finished = Run.load(args.run_folder)
    written = []
    if not args.no_index:
        index = export_index(finished, Path(args.out) / "index.faiss")
        written = [index, index.with_name(index.name + ".items.parquet")]
    for path in [*written, *export_vectors(finished, args.out, kind=args.vectors)]:
        print(path)
    return 0
