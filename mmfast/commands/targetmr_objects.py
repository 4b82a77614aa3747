"""Find the objects of texts and photos and encode them (TargetMR, Eq. 1-5, 7, 11-15)."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr objects data/shop --out objects.safetensors
  mmfast targetmr objects demo objects.parse.pipeline=parser objects.segmenter.kind=light objects.encoder=light
  mmfast targetmr objects data/shop objects.segmenter.model=vit_b objects.pictures=[photos]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr objects`."""
    from mmfast.commands.targetmr_common import add_stage_arguments

    add_stage_arguments(parser, EXAMPLES)
    parser.add_argument("--out", metavar="FILE", help="write the encoded objects, for objects.file=FILE")
    parser.add_argument(
        "--keep-encoder", metavar="FILE", help="write the light encoder, for objects.encoder=light:FILE"
    )


def run(args: argparse.Namespace) -> int:
    """Compute what the store does not have, print the counts, write what is asked for."""
    from mmfast.commands.targetmr_common import catalogue_of, found_lines, settings_of
    from mmfast.errors import MmfastError
    from mmfast.frameworks.targetmr.catalogue import save_light
    from mmfast.frameworks.targetmr.light_pair import LightObjects

    settings = settings_of(args)
    catalogue = catalogue_of(args.data, args)
    found = catalogue.find(settings.objects, settings.object_rule)
    objects = catalogue.encode(settings.objects, found)
    print("\n".join(found_lines(found, objects)))
    if args.out:
        objects.save(args.out)
        print(f"written: {args.out}")
    if args.keep_encoder:
        encoder = catalogue.encoder(settings.objects, found)
        if not isinstance(encoder, LightObjects):
            raise MmfastError("--keep-encoder writes the light encoder; set objects.encoder=light")
        save_light(encoder, args.keep_encoder)
        print(f"written: {args.keep_encoder}")
    return 0
