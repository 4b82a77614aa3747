"""Rows of features for all items: in blocks that are kept in the store as they are finished, and never made twice."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import polars as pl
import torch
from torch.utils.data import DataLoader, Dataset

from mmfast.content.blocks import Blocks, Range
from mmfast.content.devices import enough_memory
from mmfast.content.encoders import EncodeConfig, Encoder, WholeEncoder
from mmfast.content.images import DECODER, Pictures, Unreadable, hash_picture, open_picture
from mmfast.content.progress import Meter
from mmfast.content.store import Store, content_key
from mmfast.data.features import zero_rows
from mmfast.data.hashing import row_blocks
from mmfast.data.storage import new_matrix
from mmfast.errors import MmfastError

KIND = "encode"
PICTURE = "picture"
UNDECODED = "it could not be decoded"
NO_WORD = "the encoder knows no word of its text"
MARK = 8  # characters of an item in `content_marks`
BLOCK = 256  # inputs per entry of the store, in the mean: what a kill can cost, and what a changed input computes anew
MOST_WORKERS = 8
PER_WORKER = 256  # pictures that pay for a process: its start takes as long as decoding 50, its pipe an eighth on top
Arrays = dict[str, np.ndarray]
Sample = tuple[int, np.ndarray | str | MmfastError]


@dataclass
class EncodedFeatures:
    """The rows of one modality as a source that a prepared folder takes (`mmfast.data.raw.FeatureSource`).

    contents: a text per item, or `Pictures`. made_from: what the texts are, where they are not the items' own; reasons:
    why an item has none, by original id; notes: more to tell in the sidecar. After `write`, `unreadable` maps original
    item ids to the reason why not.
    """

    model: Encoder | WholeEncoder
    contents: Pictures | list[str]
    config: EncodeConfig
    store: Store
    show: bool = False
    made_from: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def encoder(self) -> str:
        """Name of the encoder and the beginning of its weights' hash, for the manifest."""
        weights = self.model.settings.get("weights", "")
        return f"{self.model.name}@{weights[:12]}" if weights else self.model.name

    @property
    def origin(self) -> str:
        """What the rows were computed from."""
        if self.made_from:
            return self.made_from
        return "pictures" if isinstance(self.contents, Pictures) else f"texts ({self.config.string})"

    def write(self, path: Path, modality: str, codes: np.ndarray, ids: pl.Series) -> np.ndarray:
        """Write [I, F] as `.npy`; return the items without a usable picture or text, whose rows are the mean row.

        Raises MmfastError when no item has one, or when the model gave a number that is not finite.
        """
        known = np.zeros(len(ids), bool)
        # A number beyond float16 becomes infinite and is refused below with its row.
        with np.errstate(over="ignore"), self._enough_memory(modality):
            target = self._rows(path, known)
        if not known.any():
            pictures = " --pictures FOLDER" if isinstance(self.contents, Pictures) else ""
            raise MmfastError(
                f"features '{modality}': none of the {len(ids)} items could be encoded, the first ('{ids[0]}') because "
                f"{self._why(0, ids[0]) or 'it has no text'}; `mmfast features status DATA{pictures}` tells of the "
                "others"
            )
        zeros = zero_rows(f"{modality}' of '{self.model.name}", target, advice=self._finer())
        missing = np.flatnonzero(~known)
        target[missing] = 0 if self.config.missing == "zero" else mean_row(target, known)
        target.flush()
        self.unreadable = {ids[n]: reason for n in missing.tolist() if (reason := self._why(n, ids[n]))}
        return np.union1d(missing, zeros).astype(np.int64)

    def _why(self, item: int, name: str) -> str:
        """Return why an item has no row of its own, "" where its text is just empty."""
        if isinstance(self.contents, Pictures):
            return self._reason(item)
        return self.reasons.get(name, NO_WORD if self.contents[item].strip() else "")

    def _finer(self) -> str:
        """Return what to do about numbers that became infinite."""
        coarse = {"--dtype float32": self.config.dtype, "--precision float32": self.config.precision}
        finer = [option for option, value in coarse.items() if value == "float16"]
        return f"choose {' and '.join(finer) or 'another model'}"

    def _enough_memory(self, modality: str) -> AbstractContextManager[None]:
        purpose = f"features '{modality}', {self.config.batch_size} inputs at once (finished blocks are kept)"
        return enough_memory(purpose, "a smaller --batch-size", "--precision bfloat16")

    def _rows(self, path: Path, known: np.ndarray) -> np.ndarray:
        """Return the new file [I, F] with the rows of the `known` items in it."""
        if hasattr(self.model, "transform"):
            target = new_matrix(path, np.dtype(self.config.dtype), (len(known), self.model.dim))
            self._in_blocks(target, known)
            return target
        rows = self._whole(known)
        target = new_matrix(path, np.dtype(self.config.dtype), rows.shape)
        target[:] = rows
        return target

    def sidecar(self) -> dict[str, Any]:
        """Return what the feature's sidecar tells besides its shape and its missing items."""
        kept = {"missing_rows": self.config.missing, "string": self.config.string}
        if not self.made_from:
            pictures = isinstance(self.contents, Pictures)
            kept["inputs"] = content_marks(self.contents.hashes if pictures else self.contents)
        return {"settings": self.settings(), **kept, "unreadable": self.unreadable, **self.notes}

    def settings(self) -> dict[str, Any]:
        """All that determines the rows besides the contents."""
        own = {"inputs_per_call": self.config.batch_size} if hasattr(self.model, "transform") else {}
        if isinstance(self.contents, Pictures):
            own |= {"most_pixels": self.config.most_pixels, "pillow": PIL.__version__, "decoder": DECODER}
        return {**self.model.settings, **own}

    def _key(self, inputs: Sequence[str]) -> str:
        return content_key(kind=KIND, model=self._model, settings=self.settings(), inputs=inputs)

    @property
    def _model(self) -> str:
        return f"{self.model.name}@{self.model.settings.get('weights', '')}"

    def _in_blocks(self, target: np.ndarray, known: np.ndarray) -> None:
        pictures = isinstance(self.contents, Pictures)
        blocks = Blocks.of(self.contents.hashes if pictures else [_filled(text) for text in self.contents])
        ranges = blocks.ranges(max(BLOCK, self.config.batch_size))
        keys = {block: self._key(blocks.keys[slice(*block)]) for block in ranges}
        unit = "pictures" if pictures else "texts"
        with Meter(self.model.name, len(blocks.keys), unit, self.show) as meter:
            absent = []
            for block in ranges:
                entry = self.store.get(KIND, keys[block])
                if entry is None:
                    absent.append(block)
                    continue
                self._place(blocks, block, entry, target, known)
                meter.add(block[1] - block[0], cached=True)
            compute = self._picture_blocks if pictures else self._text_blocks
            with decoders_watched():
                for block, entry in compute(blocks, absent, meter):
                    self.store.put(KIND, keys[block], entry, self._note(block[1] - block[0]))
                    self._place(blocks, block, entry, target, known)

    def _note(self, count: int) -> dict[str, Any]:
        of = "image" if isinstance(self.contents, Pictures) else "text"
        recipe = {"model": self._model, "settings": self.settings(), "of": of, "string": self.config.string}
        recipe |= {"block": max(BLOCK, self.config.batch_size) if hasattr(self.model, "transform") else 0}
        return {"model": self.encoder, "inputs": count, "recipe": recipe}

    def _place(self, blocks: Blocks, block: Range, entry: Arrays, target: np.ndarray, known: np.ndarray) -> None:
        items = blocks.items(*block)
        at = blocks.inverse[items] - block[0]
        target[items], known[items] = entry["rows"][at], entry["known"][at]

    def _text_blocks(self, blocks: Blocks, absent: list[Range], meter: Meter) -> Iterator[tuple[Range, Arrays]]:
        for start, stop in absent:
            parts = []
            for first in range(start, stop, self.config.batch_size):
                batch = blocks.keys[first : min(first + self.config.batch_size, stop)]
                parts.append(self.model.encode(batch))
                meter.add(len(batch))
            yield (start, stop), {"rows": np.concatenate(parts), "known": np.ones(stop - start, bool)}

    def _picture_blocks(self, blocks: Blocks, absent: list[Range], meter: Meter) -> Iterator[tuple[Range, Arrays]]:
        paths = self.contents.of_hash()
        files = [(paths[key], key) for key in blocks.keys]
        size = self.config.batch_size
        plan = [
            (start, stop, list(range(first, min(first + size, stop))))
            for start, stop in absent
            for first in range(start, stop, size)
        ]
        batches = decoded_batches(files, [indices for *_, indices in plan], self.model.transform, self.config)
        rows = np.zeros((0, self.model.dim), np.float32)
        known = np.zeros(0, bool)
        for (start, stop, indices), (pixels, readable, reasons) in zip(plan, batches, strict=True):
            if indices[0] == start:
                rows, known = np.zeros((stop - start, self.model.dim), np.float32), np.zeros(stop - start, bool)
            at = np.array(indices) - start
            known[at] = readable
            if readable.any():
                rows[at[readable]] = self.model.encode(torch.from_numpy(pixels))
            for index, reason in reasons.items():
                self.store.fail(PICTURE, picture_key(blocks.keys[index], self.config.most_pixels), reason)
            meter.add(len(indices))
            if indices[-1] == stop - 1:
                yield (start, stop), {"rows": rows, "known": known}

    def _reason(self, item: int) -> str:
        digest = self.contents.hashes[item]
        if digest is None:
            return self.contents.problems[item]
        return self.store.failure(PICTURE, picture_key(digest, self.config.most_pixels)) or UNDECODED

    def _whole(self, known: np.ndarray) -> np.ndarray:
        """Return the rows of an encoder that looks at all items at once, from one entry of the store."""
        pictures = isinstance(self.contents, Pictures)
        inputs = [key or "" for key in (self.contents.hashes if pictures else self.contents)]
        key = self._key(inputs)
        entry = self.store.get(KIND, key)
        with Meter(self.model.name, len(inputs), "pictures" if pictures else "texts", self.show) as meter:
            meter.add(len(inputs), cached=entry is not None)
            if entry is None:
                read = np.ones(len(inputs), bool)
                try:
                    rows = self.model.encode(self.contents.paths if pictures else self.contents)
                    read[self.model.missing] = False
                except MmfastError:
                    # Where not one can be read `write` tells so, with the reason that is found here.
                    if not pictures or self._explain(list(range(len(inputs)))):
                        raise
                    rows, read[:] = np.zeros((len(inputs), self.model.dim), np.float32), False
                if pictures:
                    self._explain(np.flatnonzero(~read).tolist())
                entry = {"rows": rows, "known": read}
                self.store.put(KIND, key, entry, self._note(len(inputs)))
        known[:] = entry["known"]
        return entry["rows"]

    def _explain(self, items: list[int]) -> int:
        """Record why the pictures of items could not be read, and return how many can be.

        Raises MmfastError for any file that has changed.
        """
        for path, digest in zip(self.contents.paths, self.contents.hashes, strict=True):
            if path is not None and hash_picture(path) != digest:
                raise MmfastError(f"picture '{path}' changed while it was being encoded; run again")
        good = 0
        for item in items:
            path, digest = self.contents.paths[item], self.contents.hashes[item]
            if path is not None and digest is not None:
                try:
                    open_picture(path, digest, self.config.most_pixels)
                    good += 1
                except Unreadable as problem:
                    self.store.fail(PICTURE, picture_key(digest, self.config.most_pixels), str(problem))
        return good


def picture_key(digest: str, most_pixels: int) -> str:
    """Return the key in the store under which it is kept why a picture cannot be read."""
    settings = {"most_pixels": most_pixels, "decoder": DECODER}
    return content_key(kind=PICTURE, model="", settings=settings, inputs=[digest])


def content_marks(contents: Sequence[str | None]) -> str:
    """Return 8 characters per item that tell later whether its picture (by hash) or text is still the same.

    >>> content_marks(["A mug.", None])
    'd91b22a4--------'
    """
    marks = (zlib.crc32(one.encode("utf-8", "replace")) if one and one.strip() else None for one in contents)
    return "".join("-" * MARK if mark is None else f"{mark:0{MARK}x}" for mark in marks)


def mean_row(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the mean [F] of the known rows, summed in float64, block by block."""
    total = np.zeros(rows.shape[1])
    for start, stop in row_blocks(rows):
        total += rows[start:stop][known[start:stop]].sum(axis=0, dtype=np.float64)
    return total / known.sum()


class _Files(Dataset):
    """Pictures by index, decoded and transformed; an unreadable one is its reason, a changed one is the error."""

    def __init__(self, files: list[tuple[Path, str]], transform: Any, most_pixels: int) -> None:
        self.files, self.transform, self.most_pixels = files, transform, most_pixels

    def __getitem__(self, index: int) -> Sample:
        path, digest = self.files[index]
        try:
            return index, self.transform(open_picture(path, digest, self.most_pixels)).numpy()
        except Unreadable as problem:
            return index, str(problem)
        except MmfastError as error:
            return index, error  # raised where the batch arrives: a worker would wrap it into its own traceback


def _collate(samples: list[Sample]) -> tuple[np.ndarray, np.ndarray, dict[int, str | MmfastError]]:
    """Return (pixels of the readable ones, which are readable [n], reasons by index).

    NumPy arrays travel through a pipe: tensors would need shared memory, of which containers have little.
    """
    pixels = [sample for _, sample in samples if isinstance(sample, np.ndarray)]
    reasons = {index: sample for index, sample in samples if not isinstance(sample, np.ndarray)}
    readable = np.array([isinstance(sample, np.ndarray) for _, sample in samples])
    return np.stack(pixels) if pixels else np.zeros((0,), np.float32), readable, reasons


def decoded_batches(
    files: list[tuple[Path, str]], batches: list[list[int]], transform: Any, config: EncodeConfig
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
    """Yield (pixels float32 [k, 3, H, W], readable bool [n], reasons by index) of each batch of indices, in order.

    files are (path, sha256). Raises MmfastError for a file that is no longer what it was.
    """
    workers = config.workers
    if workers is None:
        workers = min(MOST_WORKERS, (os.cpu_count() or 1) - 1, sum(map(len, batches)) // PER_WORKER)
    pictures = _Files(files, transform, config.most_pixels)
    loader = DataLoader(pictures, batch_sampler=batches, num_workers=workers, collate_fn=_collate)
    for pixels, readable, reasons in loader:
        for reason in reasons.values():
            if isinstance(reason, MmfastError):
                raise reason
        yield pixels, readable, reasons


@contextmanager
def decoders_watched() -> Iterator[None]:
    """Turn the end of a decoding process into a sentence: torch raises it wherever this process is at that moment."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # its own words for a process that has ended
            raise
        raise MmfastError(
            "a process that decodes pictures was ended from outside, perhaps for lack of memory; what was finished is "
            "kept: run again with --workers 0, or fewer than now"
        ) from None


def _filled(text: str) -> str | None:
    return text if text.strip() else None
