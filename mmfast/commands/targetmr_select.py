"""Train the text target selector on labels and apply it to every item (TargetMR, Eq. 8-10)."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr select data/shop labels.by=file labels.file=labels.csv --out selectors.safetensors
  mmfast targetmr select demo objects.parse.pipeline=parser labels.by=truth labels.noise=0.2 select.hold_out=0.4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr select`."""
    from mmfast.commands.targetmr_common import add_selector_arguments

    add_selector_arguments(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Train what the store does not have and print the scores."""
    from mmfast.commands.targetmr_common import run_selectors, settings_of

    settings = settings_of(args)
    # Without the refinement, whose training is the longer part.
    return run_selectors(args, settings.model_copy(update={"without": (*settings.without, "RRF")}))
