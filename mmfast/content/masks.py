"""The masks of all items' photos as one ragged table, and pictures of single objects made with them (Eq. 4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image

from mmfast.checkpoint import atomic_write
from mmfast.content.rle import decode_runs
from mmfast.errors import MmfastError

Entry = dict[str, np.ndarray]


@dataclass(frozen=True)
class Masks:
    """Masks of items, ragged: those of item v are offsets[v] : offsets[v + 1], the largest first.

    offsets int64 [I + 1]; mask m has the run lengths runs[run_offsets[m] : run_offsets[m + 1]] (`mmfast.content.rle`);
    size int32 [I, 2]: height and width of an item's masks, 0 for an item without a photo; whole bool [I]: nothing was
    found, the one mask is the whole photo; missing: item -> why it has no photo.
    """

    offsets: np.ndarray
    run_offsets: np.ndarray
    runs: np.ndarray
    size: np.ndarray
    whole: np.ndarray
    missing: dict[int, str]

    def __len__(self) -> int:
        return len(self.whole)

    def of(self, item: int) -> np.ndarray:
        """Return an item's masks bool [z, H, W]; z is 0 for an item without a photo."""
        rows = range(self.offsets[item], self.offsets[item + 1])
        decoded = [decode_runs(self.runs[slice(*self.run_offsets[m : m + 2])], self.size[item]) for m in rows]
        return np.stack(decoded) if decoded else np.zeros((0, *self.size[item]), bool)

    def counts(self) -> dict[str, int]:
        """Return how many items have masks, only the whole photo, or no photo, and how many masks there are."""
        missing, whole = len(self.missing), int(self.whole.sum())
        return {
            "items": len(self) - missing - whole,
            "whole_photo": whole,
            "missing": missing,
            "masks": int(self.offsets[-1]),
        }

    def save(self, path: Path | str) -> None:
        """Write everything into one safetensors file, whole or not at all. Raises MmfastError where it cannot be."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        missing = {str(item): reason for item, reason in sorted(self.missing.items())}
        about = {"missing": json.dumps(missing)}
        atomic_write(Path(path), partial(safetensors.numpy.save_file, arrays, metadata=about))

    @classmethod
    def load(cls, path: Path | str) -> Masks:
        """Return what `save` wrote."""
        with safetensors.safe_open(Path(path), framework="numpy") as file:
            missing = {int(item): reason for item, reason in json.loads(file.metadata()["missing"]).items()}
            return cls(**{name: file.get_tensor(name) for name in _ARRAYS}, missing=missing)


_ARRAYS = ("offsets", "run_offsets", "runs", "size", "whole")


def join_masks(entries: Sequence[Entry | None], missing: dict[int, str]) -> Masks:
    """Return the table of one entry per item: `size` [2], `offsets` [m + 1] and `runs` of m masks; None has no photo.

    An entry without masks becomes one mask that is the whole photo.
    """
    whole = np.array([entry is not None and len(entry["offsets"]) == 1 for entry in entries], bool)
    lengths, runs, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)], []
    size = np.zeros((len(entries), 2), np.int32)
    for item, entry in enumerate(entries):
        if entry is None:
            counts.append(0)
            continue
        size[item] = entry["size"]
        own = np.array([0, entry["size"].prod()], np.uint32) if whole[item] else entry["runs"]
        lengths.append(np.array([2]) if whole[item] else np.diff(entry["offsets"]))
        runs.append(own)
        counts.append(len(lengths[-1]))
    return Masks(
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        run_offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        runs=np.concatenate(runs),
        size=size,
        whole=whole,
        missing=missing,
    )


def object_pictures(
    photo: Image.Image, masks: np.ndarray, fill: Literal["black", "mean"] = "black", crop: bool = False
) -> list[Image.Image]:
    """Return one picture per mask bool [z, h, w], with all other pixels black (Eq. 4) or of the photo's mean colour.

    A mask of another size is stretched to the photo's. `crop` cuts to the box of the mask; the paper keeps the frame.
    Raises MmfastError for masks that are not [z, h, w], and for cropping to an empty one.

    >>> [picture.size for picture in object_pictures(photo, masks.of(item))]       # doctest: +SKIP
    """
    if masks.ndim != 3:
        raise MmfastError(f"object_pictures: got masks of shape {list(masks.shape)}; want [z, height, width]")
    pixels = np.asarray(photo.convert("RGB"))
    rest = np.zeros(3) if fill == "black" else np.rint(pixels.reshape(-1, 3).mean(axis=0))
    pictures = []
    for mask in masks:
        shape = Image.fromarray(mask)
        seen = np.asarray(shape.resize(photo.size, Image.Resampling.NEAREST) if shape.size != photo.size else shape)
        picture = Image.fromarray(np.where(seen[..., None], pixels, rest.astype(np.uint8)))
        if crop:
            box = Image.fromarray(seen).getbbox()
            if box is None:
                raise MmfastError("object_pictures: an empty mask cannot be cropped to; use crop=False")
            picture = picture.crop(box)
        pictures.append(picture)
    return pictures
