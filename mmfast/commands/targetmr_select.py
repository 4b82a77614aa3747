"""Train the text target selector on labels and apply it to every item (TargetMR, Eq. 8-10)."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr select data/shop labels.by=file labels.file=labels.csv --out selectors.safetensors
  mmfast targetmr select demo objects.parse.pipeline=parser labels.by=truth labels.noise=0.2 select.hold_out=0.4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr select`."""
    from mmfast.commands.targetmr_common import add_stage_arguments

    add_stage_arguments(parser, EXAMPLES)
    parser.add_argument("--out", metavar="FILE", help="write the selectors, for framework.selectors=FILE")


def run(args: argparse.Namespace) -> int:
    """Train what the store does not have and print the scores."""
    from mmfast.commands.targetmr_common import selectors_of, settings_of

    settings = settings_of(args)
    # Without the refinement, whose training is the longer part.
    settings = settings.model_copy(update={"without": (*settings.without, "RRF")})
    selectors, lines = selectors_of(args, settings)
    print("\n".join(lines))
    if args.out:
        selectors.save(args.out)
        print(f"written: {args.out}")
    return 0
