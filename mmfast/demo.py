"""Train FREEDOM on the built-in catalogue, then show what one user liked and what is recommended."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmfast.run import Run

EXAMPLES = """examples:
  mmfast demo                          the same as `mmfast train configs/demo_freedom.yaml`, with a look at the result
  mmfast demo train.epochs=5 seed=1    settings as for `mmfast train`
"""
SETTINGS = {
    "model": {"name": "freedom", "reg_weight": 0.001, "edge_dropout": 0.8},
    "data": {"name": "demo"},
    "train": {"epochs": 200, "patience": 10},
}
SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast demo`."""
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace the demo's")
    parser.add_argument("--user", metavar="ID", help="the user to look at (default: the one with most training items)")


def run(args: argparse.Namespace) -> int:
    """Train, print test metrics, and show one user's items and recommendations."""
    from mmfast.commands.show import metric_lines
    from mmfast.config import load_config
    from mmfast.run import dataset_of
    from mmfast.trainer import fit

    config = load_config(SETTINGS, args.settings)
    dataset = dataset_of(config)
    if args.user is not None:
        dataset.user_index(args.user)  # an unknown id is refused before minutes of training
    finished = fit(config, dataset)
    print(metric_lines({part: finished.metrics[part] for part in ("valid", "test")}))
    show_user(finished, args.user)
    print(f"\nThe run is in {finished.folder}; next: mmfast evaluate {finished.folder} --hide image")
    return 0


def show_user(finished: Run, user: str | None = None) -> None:
    """Print two tables: items the user has in training, and SHOWN recommendations; the test items are marked."""
    from rich.console import Console
    from rich.table import Table

    from mmfast.recommend import recommend

    dataset = finished.dataset
    ptr, items = dataset.train.by_user(dataset.num_users)
    index = int((ptr[1:] - ptr[:-1]).argmax()) if user is None else dataset.user_index(user)
    user = dataset.user_id(index)
    liked = Table()
    liked.add_column("item")
    liked.add_column("title")
    for item in items[ptr[index] : ptr[index + 1]][:SHOWN]:
        liked.add_row(dataset.item_id(item), dataset.item_title(item))
    best = Table()
    for name in ("rank", "item", "title", "score", ""):
        best.add_column(name)
    start, stop = dataset.test.by_user(dataset.num_users)[0][index : index + 2]
    held_out = {dataset.item_id(item) for item in dataset.test.items[start:stop]}
    for row in recommend(finished, [user], min(SHOWN, dataset.num_items)).iter_rows(named=True):
        mark = "*" if row["item"] in held_out else ""
        best.add_row(str(row["rank"]), row["item"], row["title"], f"{row['score']:.3f}", mark)
    console = Console(markup=False)  # titles may hold square brackets
    console.print(f"\nuser {user}: {min(SHOWN, ptr[index + 1] - ptr[index])} of the items in training")
    console.print(liked)
    console.print("recommended (* is an item of the test part)")
    console.print(best)


if __name__ == "__main__":
    from mmfast.cli import main

    sys.exit(main(["demo", *sys.argv[1:]]))
