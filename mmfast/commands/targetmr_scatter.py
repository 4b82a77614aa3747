"""Draw the items nearest to two items in trained runs, with and without TargetMR: t-SNE, and how far they are apart."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from mmfast.run import Run

EXAMPLES = """examples:
  mmfast targetmr scatter runs/demo_mentor runs/demo_mentor_targetmr
  mmfast targetmr scatter runs/plain runs/with --items B000051SEN B00006HXUH --count 200 --out figure3.pdf

Without --items: the first items of the two words that are most often a target in a run with TargetMR. Beside each
picture: the silhouette by cosine (1: two groups apart, 0: mixed), and the share of items near both.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr scatter`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs on the same data, a column each")
    parser.add_argument("--items", nargs=2, metavar="ID", help="original ids of two items")
    parser.add_argument("--count", type=int, default=200, help="nearest items of each (200)")
    parser.add_argument("--out", metavar="FILE", help="picture to write (last RUN/targetmr/scatter.png)")
    parser.add_argument("--seed", type=int, default=0, help="of t-SNE")


def run(args: argparse.Namespace) -> int:
    """Draw the picture and print its scores."""
    from pathlib import Path

    from mmfast.errors import MmfastError
    from mmfast.frameworks.targetmr.scatter import draw_neighbourhoods, neighbourhoods, silhouette
    from mmfast.run import Run

    if args.count < 2:
        raise MmfastError(f"scatter: got --count {args.count}; want at least 2 items near each")
    opened = {folder: Run.load(folder) for folder in dict.fromkeys(args.runs)}
    items = tuple(args.items or usual_items(list(opened.values())))
    shown = {}
    for folder, finished in opened.items():
        vectors = item_vectors(finished)
        near = neighbourhoods(vectors, *(finished.dataset.item_index(item) for item in items), args.count)
        score = silhouette(vectors[near.rows], near.side)
        print(f"{folder}: silhouette {score:.3f}, near both {near.shared:.1%}")
        shown[f"{Path(folder).name}: {score:.3f}"] = (vectors, near)
    out = Path(args.out) if args.out else finished.folder / "targetmr" / "scatter.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    titles = [finished.dataset.item_title(finished.dataset.item_index(item)) or item for item in items]
    print(f"written: {draw_neighbourhoods(shown, (titles[0], titles[1]), out, args.seed)}")
    return 0


def item_vectors(run: Run) -> np.ndarray:
    """Return the item vectors that the run scores with, float32 [I, D]."""
    from mmfast.evaluate import embed

    return embed(run.model)[1].float().cpu().numpy()


def usual_items(runs: list[Run]) -> list[str]:
    """Return the first item of each of the two most frequent target words of a run with TargetMR.

    Raises MmfastError where no run has target words.
    """
    import polars as pl

    from mmfast.errors import MmfastError

    for opened in runs:
        file = opened.folder / "targetmr" / "targets.csv"
        if not file.is_file():
            continue
        table = pl.read_csv(file, infer_schema=False)
        if "word" in table.columns:
            groups = table.filter(pl.col("word") != "").group_by(pl.col("word").str.to_lowercase(), maintain_order=True)
            firsts = groups.agg(pl.len(), pl.col("item").first()).sort("len", descending=True, maintain_order=True)
            if len(firsts) > 1:
                return firsts["item"].head(2).to_list()
    raise MmfastError("scatter: no run has a targetmr/targets.csv with two target words; name two items: --items A B")
