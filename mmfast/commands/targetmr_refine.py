"""Train the text target selector and the refinement of image objects (TargetMR, Eq. 8-10 and 16-19)."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr refine data/shop labels.by=file labels.file=labels.csv --out selectors.safetensors
  mmfast targetmr refine data/shop refine.clip_nce=true refine.temperature=0.07
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr refine`."""
    from mmfast.commands.targetmr_common import add_selector_arguments

    add_selector_arguments(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Train what the store does not have and print the scores."""
    from mmfast.commands.targetmr_common import run_selectors, settings_of

    return run_selectors(args, settings_of(args))
