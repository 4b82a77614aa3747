"""Light encoders of pictures and texts in plain NumPy: no download, no accelerator, features in seconds.

They serve the demo catalogue, tests and first looks at a user's own data; CLIP and sentence encoders see far more.
"""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmfast.content.rgb import DECODING, to_rgb
from mmfast.errors import MmfastError

Picture = Image.Image | np.ndarray | str | os.PathLike[str] | None
BLOCK = 256
SIDE = 64  # pictures are read at this many pixels on a side
ORIENTATIONS = 9
COLOUR_LEVELS = 5
PAIRS_FROM = 1 << 32  # hashes of words lie below, those of pairs of words above
PAIR_WEIGHT = 0.3
# Chinese, Japanese and Korean characters are words of their own; other words run until a space or a sign.
WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclass(frozen=True)
class Basis:
    """Directions [F, dim] that the descriptors are projected on, already divided by a power of their strength."""

    directions: np.ndarray


class LightImageEncoder:
    """Pictures to features: colour histograms, colour layout and gradient orientations, reduced by an SVD.

    `encode` learns the reduction from the pictures of the call, so give a catalogue in one call; after `fit`, every
    call uses the reduction learned there, so that new pictures are comparable with old ones.
    `missing` holds the positions of the last call's unreadable pictures, whose rows are the mean of the others.

    >>> features = LightImageEncoder().encode(["a.png", "b.jpg"])      # float32 [2, 256]
    """

    name = "light-image-1"

    def __init__(self, dim: int = 256, whiten: float = 0.5) -> None:
        self.dim, self.whiten = _check_dim("LightImageEncoder", dim), whiten
        self.missing = np.zeros(0, np.int64)
        self._basis: Basis | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the features besides the pictures; it belongs in a manifest."""
        return {"encoder": self.name, "dim": self.dim, "side": SIDE, "whiten": self.whiten}

    def fit(self, images: Sequence[Picture]) -> LightImageEncoder:
        """Learn the reduction from these pictures and keep it for later calls of `encode`."""
        rows, known = self._describe(images)
        self._basis = self._learn(rows[known])
        return self

    def encode(self, images: Sequence[Picture]) -> np.ndarray:
        """Return features float32 [n, dim] of PIL pictures, paths or arrays [H, W] or [H, W, 1|3|4].

        Arrays: uint16 0..65535, other integers 0..255, floats 0..1 where all values lie there, else 0..255. Grey,
        palette, RGBA (on white) and CMYK pictures are converted; one that cannot be read becomes the mean row and is
        listed in `missing`. Raises MmfastError when there are pictures and none can be read.
        """
        rows, known = self._describe(images)
        basis = self._basis or self._learn(rows[known])
        features, self.missing = _finish(rows @ basis.directions, known, "picture")
        return features

    def _learn(self, rows: np.ndarray) -> Basis:
        return _basis(Dense(rows), Dense(rows.T), self.dim, self.whiten)

    def _describe(self, images: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray]:
        rows, known = [], np.zeros(len(images), bool)
        for start in range(0, len(images), BLOCK):
            pixels = np.zeros((len(images[start : start + BLOCK]), SIDE, SIDE, 3), np.float32)
            for n, image in enumerate(images[start : start + BLOCK]):
                small = read_picture(image)
                if small is not None:
                    pixels[n], known[start + n] = small, True
            rows.append(describe_pixels(pixels))
        empty = np.zeros((0, describe_pixels(np.zeros((1, SIDE, SIDE, 3), np.float32)).shape[1]), np.float32)
        return np.concatenate([empty, *rows]), known


def read_picture(image: Picture) -> np.ndarray | None:
    """Return a picture as float32 [64, 64, 3] in 0..1, or None when there is none or it cannot be decoded.

    Raises MmfastError for an array of another shape than [H, W] or [H, W, 1|3|4], and for what is no picture at all.
    """
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if image is None:
        return None
    if not isinstance(image, Image.Image | str | os.PathLike):
        raise MmfastError(f"got a {type(image).__name__} for a picture; want a path, a PIL image, an array or None")
    try:
        with warnings.catch_warnings():
            # A huge picture or odd metadata only warns in Pillow; both decode well enough for a thumbnail.
            warnings.simplefilter("ignore")
            small = _thumbnail(image)
    except (*DECODING, Image.DecompressionBombError):
        return None
    return np.asarray(small, dtype=np.float32) / 255


def _thumbnail(image: Image.Image | str | os.PathLike[str]) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(image).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    with Image.open(Path(image)) as opened:
        opened.draft("RGB", (2 * SIDE, 2 * SIDE))
        return _thumbnail(_loaded(opened))


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


def _from_array(array: np.ndarray) -> Image.Image | None:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not shape_ok or array.dtype.kind not in "buif":
        raise MmfastError(f"got a picture of shape {array.shape}, {array.dtype}; want numbers [H, W] or [H, W, 1|3|4]")
    if array.size == 0 or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        return None
    if array.dtype.kind in "bf" and array.max() <= 1:
        array = array.astype(np.float32) * 255
    if array.dtype == np.uint16:
        array = array / 257
    pixels = array if array.dtype == np.uint8 else np.clip(np.rint(array), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def describe_pixels(pixels: np.ndarray) -> np.ndarray:
    """Return raw descriptors float32 [n, F] of pictures float32 [n, 64, 64, 3] in 0..1: five blocks of unit length."""
    count = len(pixels)
    middle = pixels[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    layout = pixels.reshape(count, 8, SIDE // 8, 8, SIDE // 8, 3).mean(axis=(2, 4))
    fine = _orientation_cells(pixels @ np.array([0.299, 0.587, 0.114], np.float32))
    coarse = fine.reshape(count, 4, 2, 4, 2, ORIENTATIONS).sum(axis=(2, 4))
    blocks = [
        np.sqrt(_colour_histogram(pixels)),
        np.sqrt(_colour_histogram(middle)),
        layout - layout.mean(axis=(1, 2), keepdims=True),
        np.sqrt(fine),
        np.sqrt(coarse),
    ]
    return np.concatenate([_unit_rows(block.reshape(count, -1)) for block in blocks], axis=1)


def _colour_histogram(pixels: np.ndarray) -> np.ndarray:
    """Return how many pixels of each picture fall into each of 5 x 5 x 5 colours, float32 [n, 125]."""
    levels = np.minimum((pixels * COLOUR_LEVELS).astype(np.uint8), COLOUR_LEVELS - 1)
    colour = (levels[..., 0] * COLOUR_LEVELS + levels[..., 1]) * COLOUR_LEVELS + levels[..., 2]
    size = COLOUR_LEVELS**3
    cell = (colour + size * np.arange(len(pixels))[:, None, None]).ravel()
    return np.bincount(cell, minlength=size * len(pixels)).reshape(len(pixels), size).astype(np.float32)


def _orientation_cells(grey: np.ndarray) -> np.ndarray:
    """Return the gradient strength per 8 x 8 cells and unsigned orientation, float32 [n, 8, 8, 9]."""
    down, across = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, across)
    angle = np.arctan2(down, across) % np.pi
    which = np.minimum((angle * (ORIENTATIONS / np.pi)).astype(np.int64), ORIENTATIONS - 1)
    cells = np.zeros((len(grey), 8, 8, ORIENTATIONS), np.float32)
    for k in range(ORIENTATIONS):
        part = np.where(which == k, strength, 0).reshape(len(grey), 8, SIDE // 8, 8, SIDE // 8)
        cells[..., k] = part.sum(axis=(2, 4))
    return cells


class LightTextEncoder:
    """Texts to features: hashed words and pairs of words, weighted by TF-IDF, reduced by a truncated SVD.

    `encode` learns weights and reduction from the texts of the call; after `fit` it uses those learned there.
    `missing` holds the positions of the last call's texts without a (known) word, whose rows are the mean row.

    >>> features = LightTextEncoder().encode(["Red mug", "Blue kite"])      # float32 [2, 128]
    """

    name = "light-text-1"

    def __init__(self, dim: int = 128, whiten: float = 0.25) -> None:
        self.dim, self.whiten = _check_dim("LightTextEncoder", dim), whiten
        self.missing = np.zeros(0, np.int64)
        self._fitted: tuple[np.ndarray, np.ndarray, Basis] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All that determines the features besides the texts; it belongs in a manifest."""
        return {"encoder": self.name, "dim": self.dim, "whiten": self.whiten}

    def fit(self, texts: Sequence[str | None]) -> LightTextEncoder:
        """Learn word weights and reduction from these texts and keep them for later calls of `encode`."""
        self._fitted = self._learn(_count_terms(texts))
        return self

    def encode(self, texts: Sequence[str | None]) -> np.ndarray:
        """Return features float32 [n, dim]; a text without a word (or None) becomes the mean row, listed in `missing`.

        Raises MmfastError when there are texts and none has a word.
        """
        counts = _count_terms(texts)
        terms, weights, basis = self._fitted or self._learn(counts)
        matrix = _weigh(counts, terms, weights)
        projected = matrix.times(basis.directions)
        features, self.missing = _finish(projected, np.diff(matrix.offsets) > 0, "text")
        return features

    def _learn(self, counts: Rows) -> tuple[np.ndarray, np.ndarray, Basis]:
        terms, found = np.unique(counts.columns, return_counts=True)
        # A pair counts less than a word: phrases that all texts of a shop share would drown the words that differ.
        weights = (np.log((1 + counts.height) / (1 + found)) + 1) * np.where(terms < PAIRS_FROM, 1.0, PAIR_WEIGHT)
        matrix = _weigh(counts, terms, weights)
        return terms, weights.astype(np.float32), _basis(matrix, matrix.transposed(len(terms)), self.dim, self.whiten)


@dataclass(frozen=True)
class Rows:
    """A sparse matrix by rows: offsets int64 [n + 1], columns int64 [nnz], values float32 [nnz]."""

    offsets: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def height(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Return this matrix [n, F] times a dense one [F, D], float32 [n, D]."""
        result = np.zeros((self.height, dense.shape[1]), np.float32)
        for start in range(0, self.height, BLOCK):
            stop = min(start + BLOCK, self.height)
            low, high = self.offsets[start], self.offsets[stop]
            filled = start + np.flatnonzero(np.diff(self.offsets[start : stop + 1]))
            if len(filled):
                products = dense[self.columns[low:high]] * self.values[low:high, None]
                result[filled] = np.add.reduceat(products, self.offsets[filled] - low, axis=0)
        return result

    def transposed(self, width: int) -> Rows:
        """Return the transpose, whose height is `width`."""
        order = np.argsort(self.columns, kind="stable")
        rows = np.repeat(np.arange(self.height), np.diff(self.offsets))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(self.columns, minlength=width))])
        return Rows(offsets, rows[order], self.values[order])


@dataclass(frozen=True)
class Dense:
    """A dense matrix with the two members of `Rows` that the SVD uses."""

    values: np.ndarray

    @property
    def height(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Return this matrix times another."""
        return self.values @ dense


Matrix = Rows | Dense


def _count_terms(texts: Sequence[str | None]) -> Rows:
    """Return how often each hashed word and pair of neighbouring words occurs in each text."""
    hashes: dict[str, int] = {}
    columns, values, lengths = [], [], []
    for text in texts:
        words = WORDS.findall((text or "").casefold())
        single = np.array([hashes.setdefault(w, zlib.crc32(w.encode("utf-8", "replace"))) for w in words], np.int64)
        pairs = ((single[:-1] * 1_000_003) ^ single[1:]) % PAIRS_FROM + PAIRS_FROM
        terms, found = np.unique(np.concatenate([single, pairs]), return_counts=True)
        columns.append(terms)
        values.append(1 + np.log(found))
        lengths.append(len(terms))
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))])
    return Rows(offsets, _join(columns, np.int64), _join(values, np.float32))


def _weigh(counts: Rows, terms: np.ndarray, weights: np.ndarray) -> Rows:
    """Return TF-IDF rows of unit length over the known terms; unknown terms are left out."""
    place = np.searchsorted(terms, counts.columns)
    known = place < len(terms)
    known[known] = terms[place[known]] == counts.columns[known]
    offsets = np.concatenate([[0], np.cumsum(known)])[counts.offsets]
    columns = place[known]
    values = counts.values[known] * weights[columns]
    rows = np.repeat(np.arange(counts.height), np.diff(offsets))
    length = np.sqrt(np.bincount(rows, values.astype(np.float64) ** 2, minlength=counts.height))
    return Rows(offsets, columns, (values / length[rows]).astype(np.float32))


def _basis(matrix: Matrix, back: Matrix, dim: int, whiten: float, seed: int = 0) -> Basis:
    """Return the leading directions of a matrix [n, F], given with its transpose, by a seeded randomised SVD.

    Each direction is scaled by a power of its strength, relative to the strongest.
    """
    rank = min(dim + 16, matrix.height, back.height)
    padded = np.zeros((back.height, dim), np.float32)
    if not rank:
        return Basis(padded)
    sample = np.random.default_rng(seed).standard_normal((back.height, rank)).astype(np.float32)
    for _ in range(4):
        sample = _orthonormal(back.times(matrix.times(sample)))
    square, inner = np.linalg.eigh(_gram(matrix.times(sample)))
    strength = np.sqrt(np.maximum(square[::-1], 0))
    kept = min(dim, int((strength > 1e-4 * strength[0]).sum()))
    directions = sample @ inner[:, ::-1][:, :kept].astype(np.float32)
    # The sign of a singular vector is arbitrary: its largest entry is made positive, the same in every run.
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(kept)]
    padded[:, :kept] = directions * np.where(largest < 0, -1, 1) * (strength[0] / strength[:kept]) ** whiten
    return Basis(padded)


def _gram(tall: np.ndarray) -> np.ndarray:
    """Return the products of the columns, float64 [rank, rank]."""
    wide = tall.astype(np.float64)
    return wide.T @ wide


def _orthonormal(tall: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns; superfluous columns shrink to nothing.

    By Cholesky on the small Gram matrix: a QR of the tall matrix synchronises threads once per column, which takes
    seconds instead of milliseconds on a busy machine.
    """
    gram = _gram(tall)
    ridge = 1e-12 * np.trace(gram) + np.finfo(np.float64).tiny
    return tall @ np.linalg.inv(np.linalg.cholesky(gram + ridge * np.eye(len(gram)))).T.astype(np.float32)


def _finish(rows: np.ndarray, known: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return unit rows float32 with the mean row in place of the unknown ones, and the positions of those."""
    length = np.linalg.norm(rows, axis=1)
    known = known & (length > 1e-6)
    if len(rows) and not known.any():
        raise MmfastError(
            f"none of the {len(rows)} {what}s can be read; check the paths and the columns they come from"
        )
    features = _unit_rows(rows).astype(np.float32)
    if not known.all():
        features[~known] = features[known].mean(axis=0)
    return features, np.flatnonzero(~known).astype(np.int64)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _join(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _check_dim(encoder: str, dim: int) -> int:
    if dim < 1:
        raise MmfastError(f"{encoder}: dim is {dim}; want 1 or more")
    return dim
