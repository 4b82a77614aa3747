"""Pictures decoded, encoded and segmented, and texts encoded, per second; and the share of the time in the model."""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import torch
from _common import emit, measure, stream_bandwidth
from _gemm import gemm_flops
from PIL import Image

from mmfast.content import images
from mmfast.content.encode import EncodedFeatures, decoded_batches
from mmfast.content.encode_sentence import minilm_folder
from mmfast.content.encoders import EncodeConfig, load_encoder
from mmfast.content.images import Pictures, find_pictures
from mmfast.content.segment import segment
from mmfast.content.segment_light import LightSegmenter
from mmfast.content.segment_sam import SamSegmenter
from mmfast.content.store import Store
from mmfast.content.torchvision_ops import prepare_torchvision
from mmfast.data.demo import demo_folder

CASES = ["decode", "encode", "texts", "segment", "sam"]
WORDS = "red blue steel cotton kite shoe lamp chair garden kitchen for with and light large soft water travel".split()


class Clock:
    """Counts the seconds spent in the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a look at the clock before and after."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        return timed

    def share(self, fn: Callable[[], object]) -> float:
        """Return the share of a call of fn that was spent in the wrapped functions; fn runs once before."""
        fn()
        self.seconds, start = 0.0, time.perf_counter()
        fn()
        return self.seconds / (time.perf_counter() - start)


def write_photos(folder: Path, count: int, side: int) -> Pictures:
    """Write smooth JPEG pictures of a shop's usual size and return them as the product lists them."""
    rng = np.random.default_rng(0)
    for item in range(count):
        small = Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{item}.jpg", quality=90)
    return find_pictures(pl.DataFrame({"id": [str(item) for item in range(count)]}), [folder])


def write_texts(count: int) -> list[str]:
    """Return titles and descriptions of 10 to 60 words, all different."""
    rng = np.random.default_rng(1)
    return [f"{n} " + " ".join(rng.choice(WORDS, int(rng.integers(10, 60)))) for n in range(count)]


def save_random_clip(folder: Path, name: str) -> Path:
    """Write an open_clip folder of the real size with random weights: time does not depend on their values."""
    import open_clip
    from safetensors.torch import save_model

    folder.mkdir()
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_model(open_clip.create_model(name, load_weights=False), str(folder / "open_clip_model.safetensors"))
    return folder


def flops_of(model: Any, batch: Any, count: int) -> int:
    """Return the multiplications and additions of one pass over a batch, scaled to `count` inputs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.encode(batch)
    return counter.get_total_flops() * count // len(batch)


def encode_case(
    case: str, model: Any, contents: Any, config: EncodeConfig, plain: Callable[[], object], args: argparse.Namespace
) -> dict:
    """Measure a whole write of features, with an empty store each time, against the library used by hand."""
    number, clock = itertools.count(), Clock()
    pictures = isinstance(contents, Pictures)
    count = len(contents.paths) if pictures else len(contents)
    with tempfile.TemporaryDirectory() as folder:

        def write() -> None:
            here = Path(folder) / str(next(number))
            here.mkdir()
            ids = pl.Series([str(item) for item in range(count)])
            source = EncodedFeatures(model, contents, config, Store(here))
            source.write(here / "rows.npy", "image" if pictures else "text", np.arange(count), ids)

        with patch.object(model, "encode", clock.wrap(model.encode)):
            share = clock.share(write)
        first = torch.zeros(4, 3, 224, 224) if pictures else contents[:4]
        flops = flops_of(model, first, count)
        bounds = {"product limit": flops / gemm_flops(1024)}
        facts = {"repeat": args.repeat, "least_flops": flops, "bounds": bounds}
        found = measure("content", case, "encode", write, {"library by hand": plain}, **facts)
    return {**found, "per_second": count / found["median_s"], "model_share": share}


def decode_case(pictures: Pictures, transform: Any, workers: int, args: argparse.Namespace) -> dict:
    """Measure decoding and transforming; of this process also the share of Pillow and the transform.

    What other processes spend it on, no clock of this one sees: with workers there is no `model_share`.
    """
    files, clock = list(zip(pictures.paths, pictures.hashes, strict=True)), Clock()
    batches = [list(range(n, min(n + 32, len(files)))) for n in range(0, len(files), 32)]
    config = EncodeConfig(model="clip", workers=workers)

    def decode(transform: Any = transform) -> None:
        for _ in decoded_batches(files, batches, transform, config):
            pass

    def alone() -> None:
        for path in pictures.paths:
            transform(Image.open(path).convert("RGB"))

    share = {}
    if not workers:
        with patch.object(images, "_decode", clock.wrap(images._decode)):
            share = {"model_share": clock.share(partial(decode, clock.wrap(transform)))}
    least = sum(path.stat().st_size for path in pictures.paths) + len(files) * 3 * 224 * 224 * 4
    facts = {"repeat": args.repeat, "least_bytes": least, "limit": stream_bandwidth(num_bytes=1 << 26)}
    case = f"{len(files)} jpg of {args.side} x {args.side}, {workers} workers"
    found = measure("content", case, "decode", decode, {"library by hand": alone}, **facts)
    return {**found, "per_second": len(files) / found["median_s"], **share}


def segment_case(
    case: str, pictures: Pictures, segmenter: LightSegmenter | SamSegmenter, args: argparse.Namespace
) -> dict:
    """Measure segmenting with an empty store each time against the segmenter called by hand."""
    clock, kind = Clock(), type(segmenter)
    masks_of = segmenter.load()

    def stage() -> None:
        with tempfile.TemporaryDirectory() as folder:
            segment(pictures, segmenter, store=Store(folder))

    def plain() -> None:
        for path in pictures.paths:
            photo = Image.open(path).convert("RGB")
            photo.thumbnail((segmenter.side, segmenter.side), Image.Resampling.BOX)
            masks_of(np.asarray(photo))

    # The model is loaded once for all runs; the hash of its weights belongs to every run, as it does for a user.
    with patch.object(kind, "load", lambda self: clock.wrap(masks_of)):
        share = clock.share(stage)
    with patch.object(kind, "load", lambda self: masks_of):
        least = sum(path.stat().st_size for path in pictures.paths)
        found = measure("content", case, "segment", stage, {"by hand": plain}, repeat=args.repeat, least_bytes=least)
    return {**found, "per_second": len(pictures.paths) / found["median_s"], "model_share": share}


def save_random_sam(folder: Path) -> Path:
    """Write a checkpoint of SAM ViT-B with random weights."""
    from segment_anything import sam_model_registry

    torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "sam.pth")
    return folder / "sam.pth"


def picture_cases(args: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Decode pictures, and encode them with a CLIP model of the real size."""
    (folder / "photos").mkdir()
    pictures = write_photos(folder / "photos", args.pictures, args.side)
    clip = save_random_clip(folder / "clip", args.clip)
    config = EncodeConfig(model=f"clip:{clip}", device="cpu", workers=args.workers, batch_size=32)
    encoder = load_encoder("image", config)

    def by_hand() -> None:
        for start in range(0, args.pictures, 32):
            paths = pictures.paths[start : start + 32]
            encoder.encode(torch.stack([encoder.transform(Image.open(path)) for path in paths]))

    if "decode" in args.only:
        for workers in sorted({0, 1, args.workers or 1}):
            yield decode_case(pictures, encoder.transform, workers, args)
    if "encode" in args.only:
        yield encode_case(f"{args.pictures} pictures, {args.clip}", encoder, pictures, config, by_hand, args)


def text_case(args: argparse.Namespace) -> dict:
    """Encode texts with MiniLM."""
    from sentence_transformers import SentenceTransformer

    texts, config = write_texts(args.texts), EncodeConfig(model="minilm", device="cpu")
    encoder, library = load_encoder("text", config), SentenceTransformer(str(minilm_folder()), device="cpu")
    plain = partial(library.encode, texts, batch_size=64, show_progress_bar=False)
    return encode_case(f"{args.texts} texts, minilm", encoder, texts, config, plain, args)


def cases(args: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Run the cases that are asked for, one after the other."""
    prepare_torchvision()
    if {"decode", "encode"} & set(args.only):
        yield from picture_cases(args, folder)
    if "texts" in args.only:
        yield text_case(args)
    if {"segment", "sam"} & set(args.only):
        catalogue = demo_folder()
        photos = find_pictures(pl.read_parquet(catalogue / "items.parquet").head(args.photos), [catalogue])
    if "segment" in args.only:
        yield segment_case(f"{args.photos} demo photos, light", photos, LightSegmenter(), args)
    if "sam" in args.only:
        sam = SamSegmenter(model="vit_b", checkpoint=str(save_random_sam(folder)), points_per_side=8, device="cpu")
        yield segment_case(f"{args.photos} demo photos, SAM vit_b, 64 points", photos, sam, args)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES[:-1], help="cases to run (all but sam)")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--photos", type=int, default=32, help="pictures that are segmented")
    parser.add_argument("--side", type=int, default=500, help="pixels of a picture's side")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--clip", default="ViT-B-32-quickgelu")
    parser.add_argument("--workers", type=int, help="processes that decode while pictures are encoded")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(args, Path(folder)):
            emit(case, args.json)
            if not args.json:
                share = case.get("model_share")
                told = (
                    "what the workers spend is not seen" if share is None else f"{share:.1%} of the time in the model"
                )
                print(f"  {case['per_second']:,.1f} per second, {told}")


if __name__ == "__main__":
    main()
