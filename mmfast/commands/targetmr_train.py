"""Train a backbone with TargetMR round it: `mmfast train` with framework=targetmr."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr train configs/demo_bm3_targetmr.yaml
  mmfast targetmr train model=mentor data=data/shop framework.labels.by=file framework.labels.file=labels.csv
  mmfast targetmr train model=mentor data=data/shop framework.selectors=selectors.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast train`."""
    from mmfast.commands.train import add_arguments as of_train

    of_train(parser)
    parser.epilog = f"{EXAMPLES}\n{parser.epilog}"


def run(args: argparse.Namespace) -> int:
    """Put the framework where the settings name none, and train."""
    from mmfast.commands.train import file_and_settings
    from mmfast.commands.train import run as train
    from mmfast.settings import read_settings

    if args.resume is None:
        given = read_settings(*file_and_settings(args.config)).get("framework")
        if not given or (isinstance(given, dict) and "name" not in given):
            args.config = [*args.config, "framework.name=targetmr"]
    return train(args)
