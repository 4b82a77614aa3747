"""Train selectors on one or several catalogues and apply them to another without any label of its own."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  mmfast targetmr transfer data/target --from data/source data/more --out selectors.safetensors
  mmfast targetmr train model=mentor data=data/target framework.selectors=selectors.safetensors

The encoder has to be the same for all: with objects.encoder=light it is learned on the first source, and kept beside
the selectors (--out FILE writes FILE.encoder) for objects.encoder=light:FILE.encoder.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast targetmr transfer`."""
    from mmfast.commands.targetmr_common import add_stage_arguments

    add_stage_arguments(parser, EXAMPLES)
    parser.add_argument("--from", dest="sources", nargs="+", required=True, metavar="DATA", help="labelled catalogues")
    parser.add_argument("--out", metavar="FILE", help="write the selectors, for framework.selectors=FILE")


def run(args: argparse.Namespace) -> int:
    """Train on the union of the sources, apply to the target, and print the scores of both."""
    import torch

    from mmfast.commands.targetmr_common import catalogue_of, label_lines, label_tensor, score_lines, settings_of
    from mmfast.content.store import Store
    from mmfast.device import resolve_device
    from mmfast.frameworks.targetmr.catalogue import save_light
    from mmfast.frameworks.targetmr.encode import encode_objects
    from mmfast.frameworks.targetmr.light_pair import LightObjects
    from mmfast.frameworks.targetmr.objects import join_objects
    from mmfast.frameworks.targetmr.stages import train_selectors

    settings, encoder, parts, labels = settings_of(args), None, [], []
    for name, is_source in [*((source, True) for source in args.sources), (args.data, False)]:
        catalogue = catalogue_of(name, args)
        found = catalogue.find(settings.objects, settings.object_rule)
        encoder = encoder or catalogue.encoder(settings.objects, found)
        inputs = (found.texts, found.pictures, found.masks)
        objects = encode_objects(*inputs, encoder, settings.objects, Store(), not args.quiet)
        if is_source:
            named = catalogue.label(settings.labels, found.texts)
            print("\n".join(f"{name}: {line}" for line in label_lines(named)))
            parts.append(objects)
            labels.append(label_tensor(named))
    device = resolve_device(args.device)
    selectors = train_selectors(join_objects(parts), torch.cat(labels), settings, args.seed, device)
    print("\n".join(f"{args.data}: {line}" for line in score_lines(catalogue, found, objects, selectors, settings)))
    if args.out:
        selectors.save(args.out)
        print(f"written: {args.out}")
        if isinstance(encoder, LightObjects):
            save_light(encoder, f"{args.out}.encoder")
            print(f"written: {args.out}.encoder")
    return 0
