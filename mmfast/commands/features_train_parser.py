"""Train a small spaCy tagger and parser of English from a CoNLL-U treebank, in minutes on one core."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast features train-parser data/ud-english-ewt parser
  mmfast features objects demo parse.pipeline=parser
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features train-parser`."""
    from mmfast.commands.train import settings_table
    from mmfast.content.train_parser import ParserSettings

    parser.epilog = f"{EXAMPLES}\nsettings:\n{settings_table(ParserSettings)}"
    parser.add_argument("treebank", help="folder with the CoNLL-U files of train and dev")
    parser.add_argument("out", help="folder to write the pipeline into")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the training")


def run(args: argparse.Namespace) -> int:
    """Train and save the pipeline; scores are printed as they come."""
    from mmfast.config import load_section
    from mmfast.content.train_parser import ParserSettings, train_parser

    train_parser(args.treebank, args.out, load_section(ParserSettings, args.settings))
    return 0
