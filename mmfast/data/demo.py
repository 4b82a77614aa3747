"""The built-in demo catalogue: photos, texts and users drawn from a seed in seconds, as a prepared folder in the cache.

Every item sells one target object, shown and named beside auxiliary ones that no user cares about; which is which is
recorded in `truth.parquet`, so that methods that look for the target can be checked.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from mmfast.data.build import label_rows
from mmfast.data.cache import cache_root
from mmfast.data.demo_photos import PHOTO_SIZE, draw_photo
from mmfast.data.demo_scenes import Scene, draw_scenes, stream
from mmfast.data.demo_taste import draw_choices
from mmfast.data.demo_texts import ItemText, write_texts
from mmfast.data.hashing import hash_json
from mmfast.data.manifest import VERSION, file_record, is_prepared
from mmfast.data.prepared import write_prepared
from mmfast.data.storage import new_folder, save_npy
from mmfast.errors import MmfastError

GENERATOR_VERSION = 1  # raise it with every change of the catalogue's content: it is part of the folder's name
TRUTH = "truth.parquet"
FEWEST_ITEMS, FEWEST_USERS = 24, 5
TRUTH_COLUMNS: dict[str, Any] = {
    "item": pl.Int32,
    "object": pl.Int8,
    "is_target": pl.Boolean,
    "noun": pl.String,
    "kind": pl.String,
    "colour": pl.String,
    "style": pl.String,
    "title_start": pl.Int32,
    "title_end": pl.Int32,
    "text_start": pl.Int32,
    "text_end": pl.Int32,
    "mask": pl.List(pl.UInt16),
}


@dataclass(frozen=True)
class _Encoded:
    """Features of all items with the name and settings of their encoder, as `write_prepared` takes them."""

    rows: np.ndarray
    encoder: str
    missing: np.ndarray
    origin: str = field(default="the demo catalogue")

    def write(self, path: Path, modality: str, codes: np.ndarray, ids: pl.Series) -> np.ndarray:
        """Save the rows; the catalogue's items are already in their order."""
        save_npy(path, self.rows)
        return self.missing


def demo_folder(
    seed: int = 0,
    num_items: int = 1000,
    num_users: int = 2000,
    *,
    stage: Callable[[str], None] = lambda text: None,
) -> Path:
    """Return the prepared folder of a demo catalogue in the cache, made in seconds when it is not there yet.

    Another `seed` is another catalogue: other photos, texts, tastes and choices. The folder holds `photos/`,
    features `image` [I, 256] and `text` [I, 128], and `truth.parquet` (see `demo_truth`). `stage` hears what is done.
    Raises MmfastError for fewer than 24 items or 5 users.
    """
    if num_items < FEWEST_ITEMS or num_users < FEWEST_USERS or seed < 0:
        raise MmfastError(
            f"demo catalogue: got seed={seed}, num_items={num_items}, num_users={num_users}; "
            f"want seed >= 0, num_items >= {FEWEST_ITEMS} and num_users >= {FEWEST_USERS}"
        )
    settings = {"seed": seed, "num_items": num_items, "num_users": num_users}
    encoders = _encoders()
    described = {modality: encoder.settings for modality, encoder in encoders.items()}
    key = hash_json([GENERATOR_VERSION, VERSION, settings, described])
    folder = cache_root() / "data" / f"demo-{key[:20]}"
    if is_prepared(folder):
        return folder
    with new_folder(folder, keep_existing=True) as work:
        stage("drawing scenes and texts")
        scenes = draw_scenes(seed, num_items)
        texts = [write_texts(scene, stream(seed, 2, item)) for item, scene in enumerate(scenes)]
        stage("painting photos")
        photos, masks = _paint(scenes, seed, work / "photos")
        _truth(scenes, texts, masks).write_parquet(work / TRUTH, compression="zstd", statistics=False)
        stage("encoding photos and texts")
        images = _encode(encoders["image"], photos)
        words = _encode(encoders["text"], [f"{text.title}. {text.description}" for text in texts])
        stage("asking users")
        source = {**settings, "generator": GENERATOR_VERSION, "truth": file_record(work / TRUTH)}
        _write_tables(work, scenes, texts, num_users, source, {"image": images, "text": words})
    return folder


def demo_truth(folder: Path | str) -> pl.DataFrame:
    """Return what a demo catalogue really shows, one row per object of an item, the target first.

    Columns: item (internal id), object (0 is the target), is_target, noun, kind, colour (null: none of its own), style,
    [title_start, title_end) and [text_start, text_end): characters of the noun's first mention (null: not mentioned),
    mask: run lengths of its visible pixels in the photo, read by `decode_mask`.
    Raises MmfastError when the folder is no demo catalogue.
    """
    path = Path(folder) / TRUTH
    if not path.is_file():
        raise MmfastError(f"'{folder}' has no {TRUTH}; only folders made by demo_folder know their true targets")
    return pl.read_parquet(path, glob=False)


def encode_mask(mask: np.ndarray) -> np.ndarray:
    """Return the run lengths uint16 [R] of a mask bool [H, W], read row by row, the first run being of False."""
    flat = np.concatenate([[False], np.asarray(mask, bool).ravel(), [False]])
    # The padding makes the first run one of False, perhaps of length 0, and closes the last one.
    turns = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], turns, [flat.size - 2]])).astype(np.uint16)


def decode_mask(runs: np.ndarray | pl.Series | list[int], size: int = PHOTO_SIZE) -> np.ndarray:
    """Return the mask bool [size, size] of run lengths. Raises MmfastError when they do not fill it."""
    lengths = np.asarray(runs, np.int64)
    if lengths.sum() != size * size:
        raise MmfastError(f"mask: the runs cover {lengths.sum()} pixels, not {size} x {size} = {size * size}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size, size)


def _encoders() -> dict[str, Any]:
    # Imported here: the data room stands below the content room, and only this catalogue needs its light encoders.
    from mmfast.content.light import LightImageEncoder, LightTextEncoder

    return {"image": LightImageEncoder(), "text": LightTextEncoder()}


def _encode(encoder: Any, contents: list[Any]) -> _Encoded:
    rows = encoder.encode(contents)
    return _Encoded(rows, json.dumps(encoder.settings, sort_keys=True), encoder.missing)


def _paint(scenes: list[Scene], seed: int, folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draw and save every photo; each has its own random stream, so the threads' order does not matter."""
    folder.mkdir()

    def paint(item: int) -> tuple[np.ndarray, np.ndarray]:
        photo, masks = draw_photo(scenes[item], stream(seed, 1, item))
        Image.fromarray(photo).save(folder / _photo_name(item), compress_level=2)
        return photo, masks

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        photos, masks = zip(*pool.map(paint, range(len(scenes))), strict=True)
    return list(photos), list(masks)


def _photo_name(item: int) -> str:
    return f"{item:05d}.png"


def _truth(scenes: list[Scene], texts: list[ItemText], masks: list[np.ndarray]) -> pl.DataFrame:
    rows = []
    for item, (scene, text, seen) in enumerate(zip(scenes, texts, masks, strict=True)):
        for n, thing in enumerate(scene.things):
            title, description = text.title_spans[n] or (None, None), text.description_spans[n] or (None, None)
            looks = (text.nouns[n], thing.kind, thing.colour, thing.style)
            rows.append((item, n, n == 0, *looks, *title, *description, encode_mask(seen[n]).tolist()))
    return pl.DataFrame(rows, schema=TRUTH_COLUMNS, orient="row")


def _write_tables(
    work: Path,
    scenes: list[Scene],
    texts: list[ItemText],
    num_users: int,
    source: dict[str, Any],
    features: dict[str, _Encoded],
) -> None:
    """Draw the users' choices, split them, and write the files of a prepared folder into `work`."""
    seed = source["seed"]
    users, items = draw_choices(seed, scenes, num_users)
    rows, split = label_rows(pl.DataFrame({"user": users, "item": items}), "mmrec", seed, None)
    inner = write_prepared(
        work / "tables",
        name="demo",
        rows=rows,
        users=pl.DataFrame({"id": [f"user-{n:05d}" for n in range(num_users)]}),
        items=pl.DataFrame(
            {
                "id": [f"item-{n:05d}" for n in range(len(scenes))],
                "title": [text.title for text in texts],
                "text": [text.description for text in texts],
                "image": [f"photos/{_photo_name(n)}" for n in range(len(scenes))],
            }
        ),
        features=features,
        record={"split": split, "source": source},
    )
    for path in inner.iterdir():
        shutil.move(path, work / path.name)
    inner.rmdir()
