"""Label which of the objects in an item's text is the one for sale: by a language model, a CSV file, or the truth."""

from __future__ import annotations

import argparse

from mmfast.commands.features_objects import RULES

EXAMPLES = """examples:
  mmfast features label demo by=truth noise=0.1 --parser parser --out labels.csv
  mmfast features label data/shop local.model=llama-2-13b-chat choose=sum --out labels.csv
  mmfast features label data/shop by=endpoint endpoint.url=http://127.0.0.1:8000/v1 endpoint.model=m --out labels.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features label`."""
    from mmfast.commands.features_data import add_data_arguments
    from mmfast.content.label import LabelSettings

    add_data_arguments(parser, LabelSettings, EXAMPLES, pictures=False)
    parser.add_argument("--parser", default="en_core_web_sm", help="spaCy pipeline, or a folder made by train-parser")
    parser.add_argument("--rule", choices=RULES, default="paper", help="which words are objects, as for `objects`")
    parser.add_argument("--out", metavar="FILE", help="write the labels as a CSV file: item, object_index, word")


def run(args: argparse.Namespace) -> int:
    """Find the objects of the texts, label them, and print how the labels came about."""
    from mmfast.commands.features_data import ANSWERS, count_line, cut_lines, items_of, usage_lines
    from mmfast.config import load_section
    from mmfast.content.item_texts import need_texts
    from mmfast.content.label import LabelSettings, label
    from mmfast.content.label_answers import listings_of
    from mmfast.content.label_files import demo_targets, write_labels
    from mmfast.content.parse import ParseConfig
    from mmfast.content.store import Store
    from mmfast.content.text_objects import find_text_objects
    from mmfast.features import SHOWN

    settings = load_section(LabelSettings, args.settings)
    items, show = items_of(args), not args.quiet
    truth = demo_targets(items.folder) if settings.by == "truth" else None
    texts = need_texts(items.texts())
    objects = find_text_objects(texts, ParseConfig(pipeline=args.parser), RULES[args.rule], ids=items.ids, show=show)
    listings = listings_of(items.ids, objects)
    found = label(listings, settings, Store().folder / ANSWERS, truth, show)
    print("\n".join([count_line("labels", found.counts()), *cut_lines(found)]))
    for item, reason in list(found.failures.items())[:SHOWN]:
        print(f"  {item}: {reason}")
    if len(found.failures) > SHOWN:
        print(f"  and {len(found.failures) - SHOWN:,} more")
    if found.in_scope is not None:
        print(f"in-scope rate, items asked about that got exactly a candidate: {found.in_scope:.1%}")
    if found.usage is not None:
        print("\n".join([*usage_lines(found.usage), f"answers: {found.file}"]))
    if args.out:
        write_labels(args.out, found.targets.tolist(), listings)
        print(f"written: {args.out}")
    return 0
