"""What CLIP reads of every item, made once: pictures as uint8 in a memory map, texts as token ids."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import torch

from mmfast.content.images import Pictures, Unreadable, open_picture
from mmfast.data.cache import cache_root
from mmfast.data.hashing import hash_json
from mmfast.data.storage import new_folder, new_matrix, save_npy
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = 1  # raised whenever the same contents would come out otherwise
BLOCK = 256


@dataclass(frozen=True)
class ImageInputs:
    """Pictures uint8 [P, 3, H, W], a memory map; `row` int64 [I] is each item's picture, -1 for none."""

    pixels: np.ndarray
    row: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def known(self) -> np.ndarray:
        """Which items have a picture, bool [I]."""
        return self.row >= 0

    def batch(self, items: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return pixels float32 [n, 3, H, W], normalised on `device`, of items that have a picture."""
        pixels = torch.from_numpy(self.pixels[self.row[items]])
        pixels = pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def groups(self, items: np.ndarray, size: int) -> list[np.ndarray]:
        """Return places in `items` that are encoded together, at most `size` at a time."""
        return [np.arange(start, min(start + size, len(items))) for start in range(0, len(items), size)]


@dataclass(frozen=True)
class TextInputs:
    """Token ids int32 [I, T], padded with 0; `lengths` int64 [I] up to the end token, 0 for an item without text."""

    tokens: np.ndarray
    lengths: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which items have a text, bool [I]."""
        return self.lengths > 0

    def batch(self, items: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return token ids int64 [n, L] of items, cut to the longest of them."""
        longest = int(self.lengths[items].max())
        return torch.from_numpy(self.tokens[items, :longest].astype(np.int64)).to(device)

    def groups(self, items: np.ndarray, size: int) -> list[np.ndarray]:
        """Return places in `items` that are encoded together, texts of like length."""
        order = np.argsort(self.lengths[items], kind="stable")
        return [order[start : start + size] for start in range(0, len(items), size)]


def image_inputs(pictures: Pictures, transform: Any) -> ImageInputs:
    """Return the pictures as `transform`, CLIP's own, sees them before it normalises; decoded on first use only.

    Two items with the same file share a row. A picture that cannot be read counts as none.
    Raises MmfastError for a transform of another make than open_clip's.
    """
    steps, mean, std = _pixel_steps(transform)
    keys = list(pictures.of_hash())
    name = hash_json([FORMAT, "images", keys, [_described(step) for step in steps], PIL.__version__])
    folder = cache_root() / "ptmrec" / name[:32]
    if not folder.is_dir():
        with new_folder(folder, keep_existing=True) as work:
            _decode(pictures, steps, work)
    pixels = np.load(folder / "images.npy", mmap_mode="r")
    readable = np.load(folder / "readable.npy")
    place = {key: row for row, key in enumerate(keys) if readable[row]}
    row = np.array([place.get(key, -1) for key in pictures.hashes], np.int64)
    if not (row >= 0).any():
        raise MmfastError(f"ptmrec: none of the {len(row)} items has a picture that can be read")
    return ImageInputs(pixels, row, mean, std)


def _pixel_steps(transform: Any) -> tuple[list[Any], tuple[float, ...], tuple[float, ...]]:
    """Return the steps of a transform up to 8-bit RGB, and mean and deviation of its last step."""
    steps = list(getattr(transform, "transforms", []))
    kinds = [type(step).__name__ for step in steps]
    if kinds[-2:] not in (["MaybeToTensor", "Normalize"], ["ToTensor", "Normalize"]):
        raise MmfastError(f"ptmrec: the model's transform is {kinds}; wanted one that ends with ToTensor and Normalize")
    numbers = (tuple(float(x) for x in torch.as_tensor(values).tolist()) for values in (steps[-1].mean, steps[-1].std))
    return [step for step in steps[:-2] if type(step).__name__ != "MaybeConvertMode"], *numbers


def _described(step: Any) -> str:
    return repr(asdict(step) if is_dataclass(step) else step)


def _decode(pictures: Pictures, steps: Sequence[Any], work: Path) -> None:
    files = list(pictures.of_hash().items())

    def read(number: int) -> np.ndarray | None:
        key, path = files[number]
        try:
            image = open_picture(path, key)
        except Unreadable:
            return None
        for step in steps:
            image = step(image)
        return np.asarray(image).transpose(2, 0, 1)

    readable = np.zeros(len(files), bool)
    target = None
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for start in range(0, len(files), BLOCK):
            numbers = range(start, min(start + BLOCK, len(files)))
            for number, pixels in zip(numbers, pool.map(read, numbers), strict=True):
                if pixels is None:
                    continue
                if target is None:
                    target = new_matrix(work / "images.npy", np.dtype(np.uint8), (len(files), *pixels.shape))
                target[number], readable[number] = pixels, True
    if target is None:
        raise MmfastError(f"ptmrec: none of the {len(files)} pictures can be read")
    target.flush()
    save_npy(work / "readable.npy", readable)


def text_inputs(texts: Sequence[str], tokenizer: Any) -> TextInputs:
    """Return the token ids of every text by open_clip's tokenizer; texts are cut at the model's length.

    Raises MmfastError when no item has a text.
    """
    known = np.array([bool(text.strip()) for text in texts])
    if not known.any():
        raise MmfastError(f"ptmrec: none of the {len(texts)} items has a text")
    ids = [tokenizer(list(texts[start : start + BLOCK])).numpy() for start in range(0, len(texts), BLOCK)]
    tokens = np.concatenate(ids).astype(np.int32)
    return TextInputs(tokens, np.where(known, tokens.argmax(1) + 1, 0))
