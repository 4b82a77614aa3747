"""Train the text target selector and the refinement of image objects (TargetMR, Eq. 8-10 and 16-19)."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr refine data/shop labels.by=file labels.file=labels.csv --out selectors.safetensors
  mmfast targetmr refine data/shop refine.clip_nce=true refine.temperature=0.07
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr refine`."""
    from mmfast.commands.targetmr_common import add_stage_arguments

    add_stage_arguments(parser, EXAMPLES)
    parser.add_argument("--out", metavar="FILE", help="write the selectors, for framework.selectors=FILE")


def run(args: argparse.Namespace) -> int:
    """Train what the store does not have and print the scores."""
    from mmfast.commands.targetmr_common import selectors_of, settings_of

    settings = settings_of(args)
    selectors, lines = selectors_of(args, settings)
    print("\n".join(lines))
    if args.out:
        selectors.save(args.out)
        print(f"written: {args.out}")
    return 0
