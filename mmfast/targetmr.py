"""The stages of TargetMR one by one, from objects and labels to selectors, training, a case study and a picture."""

from __future__ import annotations

import argparse
import sys

from mmfast.errors import MmfastError

# second word -> module with `add_arguments` and `run`
SUBVERBS = {
    "objects": "mmfast.commands.targetmr_objects",
    "label": "mmfast.commands.targetmr_label",
    "select": "mmfast.commands.targetmr_select",
    "refine": "mmfast.commands.targetmr_refine",
    "train": "mmfast.commands.targetmr_train",
    "transfer": "mmfast.commands.targetmr_transfer",
    "explain": "mmfast.commands.targetmr_explain",
    "scatter": "mmfast.commands.targetmr_scatter",
}
EXAMPLES = """examples:
  mmfast targetmr refine demo objects.parse.pipeline=parser objects.segmenter.kind=light objects.encoder=light
  mmfast targetmr train configs/demo_bm3_targetmr.yaml

stages (mmfast targetmr STAGE --help):
  objects DATA                  objects in texts and photos, and their vectors (Eq. 1-5, 7, 11-15)
  label DATA                    which object an item sells: a language model, a CSV file, or a demo's truth (Eq. 6)
  select DATA                   train the text target selector (Eq. 8-10)
  refine DATA                   and the refinement of image objects (Eq. 16-19)
  train CONFIG | key=value      all stages, then a backbone on their features and graph (Eq. 20-23)
  transfer TARGET --from DATA   selectors learned elsewhere, applied without any label
  explain RUN --item ID         a page about one item
  scatter RUN [RUN ...]         the items nearest to two items, drawn by t-SNE (Figures 3 and 7)

What is computed is kept in the store below the cache folder: a stopped stage continues where it was.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the argument of `mmfast targetmr`."""
    parser.add_argument("stage", nargs="?", help=", ".join(SUBVERBS))


def run(args: argparse.Namespace) -> int:
    """Say which stages there are. Raises MmfastError for a word that is none."""
    if args.stage is not None:
        from mmfast.errors import suggest

        raise MmfastError(
            f"targetmr: there is no stage '{args.stage}'.{suggest(args.stage, SUBVERBS)} Stages: {', '.join(SUBVERBS)}"
        )
    print(EXAMPLES, end="")
    return 0


if __name__ == "__main__":
    from mmfast.cli import main

    sys.exit(main(["targetmr", *sys.argv[1:]]))
