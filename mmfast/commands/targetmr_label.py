"""Label which object of an item's text is the one for sale: a language model, a CSV file, or a demo's truth (Eq. 6)."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr label data/shop labels.local.model=llama-2-7b-chat --out labels.csv
  mmfast targetmr label demo objects.parse.pipeline=parser labels.by=truth labels.noise=0.1 labels.failure_rate=0.05
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr label`."""
    from mmfast.commands.targetmr_common import add_stage_arguments

    add_stage_arguments(parser, EXAMPLES)
    parser.add_argument("--out", metavar="FILE", help="write the labels as a CSV file, for labels.by=file")


def run(args: argparse.Namespace) -> int:
    """Find the objects of the texts, label them, and print how the labels came about."""
    from mmfast.commands.targetmr_common import catalogue_of, label_lines, settings_of
    from mmfast.content.label_files import write_labels
    from mmfast.errors import MmfastError

    settings = settings_of(args)
    catalogue = catalogue_of(args.data, args)
    texts = catalogue.find_texts(settings.objects, settings.object_rule)
    if texts is None:
        raise MmfastError(f"targetmr label: the items of '{args.data}' have no texts, so there is nothing to label")
    labels = catalogue.label(settings.labels, texts)
    print("\n".join(label_lines(labels)))
    if args.out:
        write_labels(args.out, labels.targets.tolist(), catalogue.listings(texts))
        print(f"written: {args.out}")
    return 0
