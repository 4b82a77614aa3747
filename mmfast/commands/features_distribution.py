"""Draw how item features lie before and after PTMRec: t-SNE, its density in the plane, and the density of the angle."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast features distribution runs/demo_freedom_ptmrec
  mmfast features distribution runs/demo_freedom_ptmrec --out figure4.pdf --items 1000

Columns: the data's own features where it has any, frozen CLIP, tuned CLIP; rows: image and text.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features distribution`."""
    parser.add_argument("folder", metavar="RUN", help="folder of a finished run with framework=ptmrec")
    parser.add_argument("--out", metavar="FILE", help="picture to write (default: RUN/distribution.png)")
    parser.add_argument("--items", type=int, default=2000, help="most items drawn (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of items and of t-SNE")


def run(args: argparse.Namespace) -> int:
    """Draw the picture and print where it is."""
    from mmfast.distribution import draw
    from mmfast.frameworks.ptmrec.export import settings_of_features
    from mmfast.run import Run

    finished = Run.load(args.folder)
    path = args.out or finished.folder / "distribution.png"
    print(draw(settings_of_features(finished), path, args.items, args.seed))
    return 0
