"""Find the objects that the texts name (TargetMR, Eq. 1-3) and keep the parses in the store."""

from __future__ import annotations

import argparse

from mmfast.config import Config
from mmfast.content.item_texts import need_texts
from mmfast.content.parse import ParseConfig
from mmfast.content.text_objects import WIDER, ObjectRule, find_text_objects

EXAMPLES = """examples:
  mmfast features objects demo parse.pipeline=parser
  mmfast features objects data/shop --rule wider --out objects.safetensors
  mmfast features objects data/shop rule.pos=[NOUN,PROPN]
"""
RULES = {"paper": ObjectRule(), "wider": WIDER}


class Settings(Config):
    """Which pipeline parses, and which words are objects."""

    parse: ParseConfig = ParseConfig()
    rule: ObjectRule = ObjectRule()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features objects`."""
    from mmfast.commands.features_data import add_data_arguments

    add_data_arguments(parser, Settings, EXAMPLES, pictures=False)
    parser.add_argument("--rule", choices=RULES, default="paper", help="which words are objects; wider suits shops")
    parser.add_argument("--out", metavar="FILE", help="write the objects as a safetensors file")


def run(args: argparse.Namespace) -> int:
    """Parse what the store does not have, apply the rule, and print how the items' objects were found."""
    from mmfast.commands.features_data import count_line, items_of
    from mmfast.config import load_section

    chosen = [f"rule.{name}={list(values)}" for name, values in RULES[args.rule]]
    settings = load_section(Settings, [*chosen, *args.settings])
    items = items_of(args)
    texts = need_texts(items.texts())
    found = find_text_objects(texts, settings.parse, settings.rule, ids=items.ids, show=not args.quiet)
    print(count_line("items", found.counts()))
    print(f"objects: {len(found.start):,}, {len(found.start) / max(1, len(found)):.2f} per item")
    if args.out:
        found.save(args.out)
        print(f"written: {args.out}")
    return 0
