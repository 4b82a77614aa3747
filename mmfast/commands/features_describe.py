"""Describe every picture with a vision language model, and encode the descriptions as the image feature (LIRDRec)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from mmfast.commands.features_data import Items
    from mmfast.content.describe import Descriptions
    from mmfast.content.encoders import EncodeConfig

EXAMPLES = """examples:
  mmfast features describe data/shop by=endpoint endpoint.url=http://127.0.0.1:8000/v1 endpoint.model=llava
  mmfast features describe data/shop --encode e5-mistral       descriptions and texts become both features

Answers are kept in the cache folder, one JSON line each: a stopped command asks only what is missing.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features describe`."""
    from mmfast.commands.features_data import add_data_arguments
    from mmfast.content.describe import DescribeSettings

    add_data_arguments(parser, DescribeSettings, EXAMPLES)
    parser.add_argument(
        "--encode", metavar="ENCODER", help="text encoder: descriptions to image, texts to text feature"
    )
    parser.add_argument("--out", help="write the features into this copy and leave the data as they are")
    parser.add_argument("--device", help="of the encoder: auto (CUDA where torch sees a GPU), cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """Describe, print what it took, and encode when asked to."""
    from mmfast.commands.features_data import ANSWERS, count_line, items_of, status_command, usage_lines
    from mmfast.config import load_section
    from mmfast.content.describe import DescribeSettings, describe
    from mmfast.content.encoders import EncodeConfig, load_encoder
    from mmfast.content.features import refuse_existing
    from mmfast.content.store import Store
    from mmfast.features import SHOWN

    if unused := [f"--{name}" for name in ("out", "device") if getattr(args, name) is not None and not args.encode]:
        raise MmfastError(f"{', '.join(unused)}: only --encode reads it; the describer's device is local.device")
    settings = load_section(DescribeSettings, args.settings)
    config = EncodeConfig(model=args.encode, device=args.device or "auto") if args.encode else None
    encoder = load_encoder("text", config) if config else None  # first: describing takes longer than to find no weights
    refuse_existing(args.out)
    items = items_of(args)
    texts = items.texts() if config else []
    found = describe(items.ids, items.pictures(), settings, Store().folder / ANSWERS, show=not args.quiet)
    counts = {"described": len(found.texts), "without a description": len(found.failures)}
    print(count_line("pictures", counts))
    for item, reason in list(found.failures.items())[:SHOWN]:
        print(f"  {item}: {reason}")
    if len(found.failures) > SHOWN:
        print(f"  and {len(found.failures) - SHOWN:,} more: `{status_command(args)}` lists all of them")
    print("\n".join([*usage_lines(found.usage), f"answers: {found.file}"]))
    if found.failures and not found.texts:
        raise MmfastError("describe: no picture has a description; the reasons are above")
    if config:
        _encode(items, texts, found, encoder, config, args)
    return 0


def _encode(
    items: Items,
    texts: list[str],
    found: Descriptions,
    model: Any,
    config: EncodeConfig,
    args: argparse.Namespace,
) -> None:
    """Write the two features; an item without a text of its own gets its description there too."""
    from mmfast.content.describe import fill_empty
    from mmfast.content.encode import EncodedFeatures
    from mmfast.content.features import target_folder
    from mmfast.content.store import Store
    from mmfast.data.replace_features import replace_features
    from mmfast.features import feature_lines

    store = Store()
    texts, filled = fill_empty(texts, items.ids, found)
    described = [found.texts.get(item, "") for item in items.ids]
    show = not args.quiet
    made_from = f"descriptions ({found.file.stem})"
    image = EncodedFeatures(model, described, config, store, show, made_from=made_from, reasons=found.failures)
    notes = {"descriptions_instead": [items.ids[row] for row in filled]}
    made_from = f"texts, {len(filled)} of them descriptions"
    text = EncodedFeatures(model, texts, config, store, show, made_from=made_from, notes=notes)
    with target_folder(items.folder, args.out) as target:
        replace_features(target, {"image": image, "text": text})
    changed = items.folder if args.out is None else Path(args.out)
    print("\n".join([f"{changed}:", *(line for m in ("image", "text") for line in feature_lines(changed, m))]))
