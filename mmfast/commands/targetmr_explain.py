"""A page about one item of a run: photo, masks, targets, similarities, and the users that it reached."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmfast.run import Run

EXAMPLES = """examples:
  mmfast targetmr explain runs/demo_mentor_targetmr --item item-00007
  mmfast targetmr explain runs/with --item B000051SEN --without runs/plain --out case.html
"""
TOP = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr explain`."""
    parser.add_argument("run_folder", metavar="RUN", help="finished run with framework=targetmr")
    parser.add_argument("--item", required=True, metavar="ID", help="original id of the item")
    parser.add_argument("--without", metavar="RUN", help="finished run without TargetMR, to compare whom it reaches")
    parser.add_argument("--out", metavar="FILE.html", help="where the page goes (RUN/targetmr/ID.html)")
    parser.add_argument("--top", type=int, default=TOP, help="places of a user's list that count (20)")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from pathlib import Path

    from mmfast.checkpoint import write_text
    from mmfast.errors import MmfastError
    from mmfast.frameworks.targetmr.case import Item, case_of
    from mmfast.frameworks.targetmr.explain import case_page
    from mmfast.run import Run

    opened = Run.load(args.run_folder)
    settings = next((section for section in opened.config.framework if section.name == "targetmr"), None)
    if settings is None:
        raise MmfastError(f"run '{args.run_folder}' was trained without TargetMR; give one with framework=targetmr")
    place = opened.dataset.item_index(args.item)
    reached = {f"with TargetMR, among the first {args.top}": users_of(opened, place, args.top)}
    if args.without:
        other = Run.load(args.without)
        reached["without it"] = users_of(other, other.dataset.item_index(args.item), args.top)
    item = Item(place, args.item, opened.dataset.item_title(place))
    page = case_page(case_of(item, opened.model.extension.prepared, settings, reached))
    out = Path(args.out) if args.out else opened.folder / "targetmr" / f"{Path(args.item).name}.html"
    write_text(out, page)
    print(f"written: {out}")
    return 0


def users_of(run: Run, item: int, top: int) -> list[str]:
    """Return the users who get an item among their first `top`, items of their training part left out."""
    import numpy as np

    from mmfast.evaluate import embed, user_rows
    from mmfast.recommend import top_items

    users = np.arange(run.dataset.num_users)
    seen = user_rows(run.dataset, "train", users)
    found, _ = top_items(*embed(run.model), users, seen, min(top, run.dataset.num_items))
    ids = run.dataset.user_ids
    return [ids[user] for user in np.flatnonzero((found == item).any(axis=1)).tolist()]
