"""What the store of computed content holds, what failed, and which features a data set has."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mmfast.content.store import Store

EXAMPLES = """examples:
  mmfast features status
  mmfast features status demo
"""
SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features status`."""
    parser.add_argument("data", nargs="?", help="demo, a data set's name, or a prepared or plain folder")
    parser.add_argument("--root", help="folder that holds the data sets (MMFAST_DATA, else ./data)")


def run(args: argparse.Namespace) -> int:
    """Print the entries of the store by kind and model, the failures, and the features of the data set."""
    from mmfast.content.store import Store
    from mmfast.data.load import prepared_folder

    store = Store()
    print("\n".join(store_lines(store)))
    if args.data is not None:
        print("\n".join(folder_lines(prepared_folder(args.data, root=args.root)[0])))
    return 0


def store_lines(store: Store) -> list[str]:
    """Return a line per kind and model, the reasons of failures with their number, and a line per file of answers."""
    from mmfast.commands.features_data import ANSWERS, count_line
    from mmfast.content.answers import count_answers

    lines = [f"store {store.folder}"]
    for kind in store.kinds():
        count, size = Counter(), Counter()
        for entry in store.entries(kind):
            model = str(entry.note.get("model", ""))
            count[model] += 1
            size[model] += entry.num_bytes
        lines += [f"  {kind} {model}: {count[model]:,} entries, {size[model] / 2**20:,.1f} MiB" for model in count]
        reasons = Counter(store.failures(kind).values())
        lines += [f"  {kind} failed: {number:,} x {reason}" for reason, number in reasons.most_common(SHOWN)]
        if len(reasons) > SHOWN:
            lines.append(f"  {kind} failed: {sum(reasons.values()):,} in all, for {len(reasons)} reasons")
    for name, counts in count_answers(store.folder / ANSWERS).items():
        lines.append("  " + count_line(f"answers {name}", counts))
    return lines if len(lines) > 1 else [*lines, "  nothing is there yet"]


def folder_lines(folder: Path) -> list[str]:
    """Return the features of a prepared folder, and what is wrong with the sidecar of one, if anything is."""
    from mmfast.data.manifest import read_manifest
    from mmfast.data.prepared import read_table
    from mmfast.data.readers.files import sidecar
    from mmfast.data.replace_features import item_list_hash
    from mmfast.features import feature_lines

    features = read_manifest(folder)["features"]
    items = item_list_hash(read_table(folder, "items.parquet")["id"])
    lines = [f"features of {folder}"]
    for modality, about in features.items():
        lines += feature_lines(folder, modality)
        if sidecar(folder / about["file"]).get("items", items) != items:
            lines.append("    its rows were computed for another list of items: compute it again")
    return lines if features else [*lines, "  none"]
