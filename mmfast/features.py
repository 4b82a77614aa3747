"""Compute features of a data set's texts and pictures and write them into its prepared folder."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mmfast.errors import MmfastError

# second word -> module with `add_arguments` and `run`; without one of them the verb computes features
SUBVERBS = {
    "status": "mmfast.commands.features_status",
    "objects": "mmfast.commands.features_objects",
    "segment": "mmfast.commands.features_segment",
    "describe": "mmfast.commands.features_describe",
    "label": "mmfast.commands.features_label",
    "train-parser": "mmfast.commands.features_train_parser",
    "tuned": "mmfast.commands.features_tuned",
    "distribution": "mmfast.commands.features_distribution",
}
EXAMPLES = """examples:
  mmfast features demo --image clip --text minilm
  mmfast features data/shop --image torchvision:resnet50 --pictures photos/ --workers 4
  mmfast features baby --text stsb-roberta-large --compat lattice --out data/baby-ckd
  mmfast features demo --image light --text light      back to the built-in encoders
  mmfast features demo --image light --text light --objects parser --rule wider --masks light
  mmfast features status demo                          what is there, what is missing, what failed

stages of their own (mmfast features STAGE --help):
  objects DATA              objects that the texts name       segment DATA      objects in the photos
  describe DATA             photos described by a model       label DATA        which object an item sells
  train-parser TREEBANK OUT                                   status [DATA]
  tuned RUN                 features tuned by PTMRec          distribution RUN     a picture of them

Encoders: light; clip (= clip-b32), clip-b16, clip:MODEL:TAG_OR_FILE, clip:FOLDER, clip:hf-hub:NAME; of pictures also
torchvision:MODEL[:WEIGHTS_OR_FILE], amazon-cnn:FILE.b; of texts minilm, stsb-roberta-large, e5-mistral,
sentence:NAME_OR_FOLDER, last-token:NAME_OR_FOLDER. Finished blocks are kept under the cache folder: a stopped command
continues where it was. docs/features.md tells more.
"""
PICTURES = "where the picture files lie; several such options are looked through in order"
SHOWN = 5  # unreadable pictures that are named; all of them are in the sidecar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features`."""
    parser.add_argument("data", help="demo, a data set's name, or a prepared or plain folder")
    parser.add_argument("--image", metavar="ENCODER", help="encoder of the pictures")
    parser.add_argument("--text", metavar="ENCODER", help="encoder of the texts")
    parser.add_argument(
        "--objects", metavar="PARSER", help="also find objects in texts: a spaCy pipeline or its folder"
    )
    parser.add_argument("--rule", choices=("paper", "wider"), default="paper", help="which words are objects")
    parser.add_argument("--masks", choices=("light", "sam"), help="also segment the photos")
    parser.add_argument("--pictures", action="append", default=[], metavar="FOLDER", help=PICTURES)
    parser.add_argument("--root", help="folder that holds the data sets (MMFAST_DATA, else ./data)")
    parser.add_argument("--out", help="write into this copy and leave the data as they are")
    parser.add_argument("--compat", choices=("none", "lattice"), default="none", help="lattice: LATTICE's item string")
    parser.add_argument("--batch-size", type=int, help="pictures or texts per call of the model (64)")
    parser.add_argument("--precision", help="float32, or autocast: bfloat16, float16")
    parser.add_argument("--dtype", help="on disk: float32 or float16")
    parser.add_argument("--missing", help="row of an item without content: mean or zero")
    parser.add_argument("--max-length", type=int, help="most tokens of a text (the model's own)")
    parser.add_argument("--workers", type=int, help="processes that decode pictures (by their number and the cores)")
    parser.add_argument("--device", help="auto (CUDA where torch sees a GPU), cpu, cuda or cuda:N")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Compute and write the features that the arguments name; print what was written."""
    from mmfast.commands.features_data import check_folders
    from mmfast.content.features import feature_sources, refuse_existing, write_sources
    from mmfast.data.load import prepared_folder

    check_folders(args.pictures)
    configs = {m: _config(m, args) for m in ("image", "text") if getattr(args, m)}
    if not (configs or args.objects or args.masks):
        raise MmfastError(
            "nothing to compute; give --image ENCODER, --text ENCODER, --objects PARSER, --masks SEGMENTER or several, "
            "such as --text minilm"
        )
    _refuse_unused(args)
    # Weights that are not there are told before the long stages.
    if args.masks == "sam":
        from mmfast.content.segment_sam import SamSegmenter

        SamSegmenter().path()
    if not configs:
        _objects_and_masks(args)
        return 0
    refuse_existing(args.out)
    folder, source = prepared_folder(args.data, root=args.root)
    sources = feature_sources(folder, configs, pictures=[*args.pictures, source], show=not args.quiet)
    _objects_and_masks(args)
    changed = write_sources(folder, sources, args.out)
    print("\n".join([f"{changed}:", *(line for m in configs for line in feature_lines(changed, m))]))
    return 0


def _refuse_unused(args: argparse.Namespace) -> None:
    """Raise MmfastError for options that nothing here reads."""
    from mmfast.content.encoders import parse_encoder

    families = {parse_encoder(m, getattr(args, m)).family for m in ("image", "text") if getattr(args, m)}
    models = families - {"light", "amazon-cnn"}
    of_pictures = parse_encoder("image", args.image).family if args.image else "amazon-cnn"  # which reads none
    seen = args.masks or of_pictures != "amazon-cnn"
    decoded = args.masks == "light" or of_pictures not in ("light", "amazon-cnn")
    read = {
        "--rule": args.objects or args.rule == "paper",
        "--pictures": seen or not args.pictures,
        "--out": families or args.out is None,
        "--dtype": families or args.dtype is None,
        "--missing": families or args.missing is None,
        "--device": models or args.masks == "sam" or args.device is None,
        "--workers": decoded or args.workers is None,
        "--compat": args.text or args.compat == "none",
        "--precision": models or args.precision is None,
        "--batch-size": models or args.batch_size is None,
        "--max-length": families & {"sentence", "last-token"} or args.max_length is None,
    }
    if unused := [option for option, used in read.items() if not used]:
        raise MmfastError(
            f"{', '.join(unused)}: nothing that was asked for reads it (--rule needs --objects; --out, --dtype and "
            "--missing an encoder; --compat one of texts; --max-length a sentence encoder; --precision and "
            "--batch-size another one than light; --device that or --masks sam; --workers one of pictures but light or "
            "--masks light; --pictures an encoder of pictures or --masks)"
        )


def _objects_and_masks(args: argparse.Namespace) -> None:
    """Run the stages `objects` and `segment` with their defaults where the arguments ask for them."""
    common = argparse.Namespace(
        **{name: getattr(args, name) for name in ("data", "root", "pictures", "quiet")}, out=None
    )
    if args.objects:
        from mmfast.commands import features_objects

        common.rule, common.settings = args.rule, [f"parse.pipeline={json.dumps(args.objects, ensure_ascii=False)}"]
        features_objects.run(common)
    if args.masks:
        from mmfast.commands import features_segment

        common.segmenter = args.masks
        common.settings = [f"device={args.device}"] if args.device and args.masks == "sam" else []
        common.masks, common.processes = features_segment.MASKS, max(1, args.workers or 1)
        features_segment.run(common)


def _config(modality: str, args: argparse.Namespace) -> Any:
    """Return the settings of one modality. Raises MmfastError for a value that is none."""
    import pydantic

    from mmfast.content.encoders import EncodeConfig, parse_encoder

    model = getattr(args, modality)
    parse_encoder(modality, model)
    names = ("batch_size", "precision", "dtype", "missing", "max_length", "workers", "device")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    string = "lattice" if args.compat == "lattice" and modality == "text" else "standard"
    try:
        return EncodeConfig(model=model, string=string, **given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise MmfastError(f"{option}: got {first['input']!r}; {first['msg']}") from None


def feature_lines(folder: Path, modality: str) -> list[str]:
    """Return what a person wants to know of one modality's feature in a prepared folder."""
    from mmfast.data.manifest import read_manifest
    from mmfast.data.readers.files import sidecar

    about = read_manifest(folder)["features"][modality]
    rows, dim = about["shape"]
    lines = [f"  {modality}: {rows:,} x {dim} {about['dtype']}, {about['encoder']}, {len(about['missing']):,} missing"]
    unreadable = sidecar(folder / about["file"]).get("unreadable", {})
    lines += [f"    {item}: {reason}" for item, reason in list(unreadable.items())[:SHOWN]]
    if len(unreadable) > SHOWN:
        beside = Path(about["file"]).with_suffix(".json")
        lines.append(f"    and {len(unreadable) - SHOWN:,} more, all of them in {beside}")
    return lines


if __name__ == "__main__":
    from mmfast.cli import main

    sys.exit(main(["features", *sys.argv[1:]]))
