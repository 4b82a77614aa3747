"""Pictures of items: where their files lie, what is in them, and a list of those that cannot be used."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from PIL import Image

from mmfast.content.rgb import DECODING, to_rgb
from mmfast.errors import MmfastError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
MOST_PIXELS = 178_956_970  # what Pillow opens at most: half a gigabyte of RGB
DECODER = 2  # raised whenever a picture would come out otherwise
NOTHING_NAMED = "the items table names no picture"


class Unreadable(MmfastError):
    """A picture that cannot be used; the text says why."""


@dataclass
class Pictures:
    """One path per item, None where there is none; `problems` says why, by item. `hashes` (sha256) are of the files."""

    paths: list[Path | None]
    problems: dict[int, str] = field(default_factory=dict)
    hashes: list[str | None] = field(default_factory=list)

    def of_hash(self) -> dict[str, Path]:
        """Return hash -> one path of every different picture, by hash."""
        known = {key: path for key, path in zip(self.hashes, self.paths, strict=True) if key is not None and path}
        return dict(sorted(known.items()))


def find_pictures(items: pl.DataFrame, folders: Iterable[Path | str], option: str = "--pictures") -> Pictures:
    """Return the picture file of every item, hashed: by the column `image`, else by the item's id and a usual ending.

    items: `id` and perhaps `image`, a path relative to one of `folders` (tried in order) or absolute. Addresses of the
    web are not fetched: put the files into a folder, named by item id or by the last part of the address.
    Raises MmfastError when no item at all has a picture; `option` is what names their folder.

    >>> pictures = find_pictures(dataset.item_table(), ["data/shop"])  # doctest: +SKIP
    """
    roots = [Path(folder) for folder in folders]
    named = items["image"].to_list() if "image" in items.columns else [None] * items.height
    by_stem = _by_stem(roots)
    pictures = Pictures([])
    for item, (identity, name) in enumerate(zip(items["id"].to_list(), named, strict=True)):
        path = _locate(str(name or ""), str(identity), roots, by_stem)
        pictures.paths.append(path)
        if path is None:
            pictures.problems[item] = f"'{name}' is not there" if name else NOTHING_NAMED
    if items.height and not any(pictures.paths):
        looked = ", ".join(f"'{root}'" for root in dict.fromkeys(roots))
        raise MmfastError(
            f"none of the {items.height} items has a picture (first: {pictures.problems[0]}; looked in {looked}); give "
            f"the folder of the pictures with {option}, files named as in the column 'image' or by item id"
        )
    _hash(pictures)
    return pictures


def _by_stem(roots: Sequence[Path]) -> dict[str, Path]:
    """Return name without ending -> file, of the pictures directly in the folders; earlier folders win."""
    found: dict[str, Path] = {}
    for root in roots:
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.suffix.lower() in ENDINGS:
                found.setdefault(path.stem, path)
    return found


def _locate(name: str, identity: str, roots: Sequence[Path], by_stem: dict[str, Path]) -> Path | None:
    on_the_web = "://" in name
    if name and not on_the_web:
        for path in (root / name for root in roots):
            with contextlib.suppress(OSError, ValueError):  # no name of a file: too long, or with a zero byte
                if path.is_file():
                    return path
    return by_stem.get(identity) or (by_stem.get(Path(name.rpartition("/")[2]).stem) if on_the_web else None)


def _hash(pictures: Pictures) -> None:
    def digest(path: Path | None) -> str | None:
        return None if path is None else hash_picture(path)

    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) as pool:
        pictures.hashes = list(pool.map(digest, pictures.paths))
    for item, (key, path) in enumerate(zip(pictures.hashes, pictures.paths, strict=True)):
        if key is None and path is not None:
            pictures.paths[item], pictures.problems[item] = None, f"'{path}' cannot be read"


def hash_picture(path: Path) -> str | None:
    """Return the sha256 of a file, None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def open_picture(source: Path | bytes, expected: str | None = None, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Return a picture in RGB, 8 bits: grey and CMYK converted, clear parts white, the first frame of an animation.

    How deep grey is scaled, and that pictures are not turned by their EXIF orientation, `to_rgb` says.

    `expected` is the sha256 that the file had when it was listed. Raises Unreadable for a file that is damaged, cut
    short, no picture, or of more than `most_pixels`; its text is the reason. Raises MmfastError for a listed file that
    has changed or cannot be read any more: that says nothing of the picture, so it must not be kept as its result.

    >>> open_picture(Path("photo.jpg")).mode  # doctest: +SKIP
    'RGB'
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        if expected is not None:
            raise MmfastError(f"picture '{source}' {reason}; it could be when it was listed: run again") from None
        raise Unreadable(reason) from None
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise MmfastError(f"picture '{source}' changed while it was being encoded; run again")
    if not content:
        raise Unreadable("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns from a lower number of pixels on than is refused here, and of odd metadata.
            warnings.simplefilter("ignore")
            return _decode(content, most_pixels)
    except Image.UnidentifiedImageError:
        raise Unreadable("it is no picture of a known format") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"it has more than {most_pixels:,} pixels") from None
    except DECODING as error:
        raise Unreadable(f"it cannot be decoded: {error}") from None


def _decode(content: bytes, most_pixels: int) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        if width * height > most_pixels:
            raise Unreadable(f"it has {width} x {height} pixels, more than {most_pixels:,}")
        image.load()
        return to_rgb(image)
