"""Segment every photo into its largest objects (TargetMR, Eq. 5) and keep the masks in the store."""

from __future__ import annotations

import argparse

from mmfast.errors import MmfastError

EXAMPLES = """examples:
  mmfast features segment demo
  mmfast features segment data/shop --with sam model=vit_b points_per_side=16 --pictures photos/ --out masks.safetensors
"""
MASKS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features segment`."""
    from mmfast.commands.features_data import add_data_arguments
    from mmfast.commands.train import settings_table
    from mmfast.content.segment_light import LightSegmenter
    from mmfast.content.segment_sam import SamSegmenter

    add_data_arguments(parser, LightSegmenter, EXAMPLES)
    parser.epilog = f"{parser.epilog}\n\nsettings of --with sam:\n{settings_table(SamSegmenter)}"
    parser.add_argument("--with", dest="segmenter", choices=("light", "sam"), default="light", help="segmenter (light)")
    parser.add_argument("--masks", type=int, default=MASKS, help="largest masks per photo, z (5)")
    parser.add_argument("--processes", type=int, default=1, help="processes of the light segmenter (1)")
    parser.add_argument("--out", metavar="FILE", help="write the masks as a safetensors file")


def run(args: argparse.Namespace) -> int:
    """Segment the photos that the store does not have; print the counts and the photos that could not be read."""
    from mmfast.commands.features_data import count_line, items_of, status_command
    from mmfast.config import load_section
    from mmfast.content.segment import segment
    from mmfast.content.segment_light import LightSegmenter
    from mmfast.content.segment_sam import SamSegmenter
    from mmfast.features import SHOWN

    if args.segmenter == "sam" and args.processes != 1:
        raise MmfastError("--processes: only the light segmenter reads it; SAM runs in one process")
    segmenter = load_section(SamSegmenter if args.segmenter == "sam" else LightSegmenter, args.settings)
    items = items_of(args)
    found = segment(items.pictures(), segmenter, masks=args.masks, processes=args.processes, show=not args.quiet)
    print(count_line("photos", found.counts()))
    for item, reason in list(found.missing.items())[:SHOWN]:
        print(f"  {items.ids[item]}: {reason}")
    if len(found.missing) > SHOWN:
        print(f"  and {len(found.missing) - SHOWN:,} more: `{status_command(args)}` lists all of them")
    if args.out:
        found.save(args.out)
        print(f"written: {args.out}")
    return 0
