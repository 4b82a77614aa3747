"""A small encoder of pictures and texts trained on a catalogue's own pairs: CLIP's part where no weights can be had.

Words have learned vectors and weights, a text is the weighted mean of its words, a picture is a small network over the
light descriptors; both meet by the contrastive loss of CLIP. It serves the demo and tests: CLIP knows the world, this
only what the catalogue shows.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mmfast.content.encoders import hash_weights
from mmfast.content.light import WORDS, describe_pixels, read_picture
from mmfast.content.progress import Meter
from mmfast.embeddings import linear
from mmfast.seeds import derive_generator

BUCKETS = 1 << 14  # words share a row when their hashes do
PLACES = 77
DESCRIPTORS = describe_pixels(np.zeros((1, 64, 64, 3), np.float32)).shape[1]
HIDDEN = 256
POSITION_LENGTH = 0.3  # amplitude of the positions beside words, whose entries start at about 1 / 8
TEXT_LENGTH = 4.0  # times the mean of its words: as with CLIP, a text is to outweigh one word's embedding
WINDOW = 16  # words of the parts of texts that training shows beside whole ones
VERSION = 1  # raised with every change of what is learned


class LightPair(nn.Module):
    """The two towers; D = `dim`."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.table = nn.Parameter(torch.randn(BUCKETS, dim, generator=generator) / math.sqrt(dim))
        self.weight = nn.Parameter(torch.zeros(BUCKETS))
        self.first, self.second = linear(DESCRIPTORS, HIDDEN, generator), linear(HIDDEN, dim, generator)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.1)))

    def text(self, words: Tensor, offsets: Tensor) -> Tensor:
        """Return the weighted mean [n, D] of bags of words, those of text r behind offsets[r]."""
        weights = F.softplus(self.weight)[words]
        total = F.embedding_bag(words, self.table, offsets, mode="sum", per_sample_weights=weights)
        owner = torch.bucketize(torch.arange(len(words)), offsets, right=True) - 1
        sums = weights.new_zeros(len(offsets)).index_add(0, owner, weights)
        return total / sums.clamp(min=1e-6)[:, None]

    def picture(self, descriptors: Tensor) -> Tensor:
        """Return [n, D] of descriptors [n, F]."""
        return self.second(F.gelu(self.first(descriptors)))

    def loss(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """Return the contrastive loss of n pairs [n, D], both ways."""
        logits = self.log_scale.exp().clamp(max=100) * F.normalize(pictures, dim=1) @ F.normalize(texts, dim=1).t()
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2


class LightObjects:
    """A trained pair of towers as an object encoder; runs on the CPU."""

    def __init__(self, pair: LightPair) -> None:
        self.pair, self.dim = pair.eval(), pair.dim
        self.identity = f"light-pair-{VERSION}-{TEXT_LENGTH}:{hash_weights(pair)}"
        self.positions = POSITION_LENGTH * _waves(PLACES, pair.dim)

    @torch.inference_mode()
    def texts(self, batch: Sequence[str]) -> np.ndarray:
        """Return the weighted mean of each text's words, lengthened, float32 [n, D]."""
        return TEXT_LENGTH * self.pair.text(*_bags([_buckets(text) for text in batch])).numpy()

    @torch.inference_mode()
    def pictures(self, batch: Sequence[Image.Image]) -> np.ndarray:
        """Return picture vectors, float32 [n, D]."""
        return self.pair.picture(torch.from_numpy(describe(batch))).numpy()

    def words(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of words and which words of the text they are, counted from 1 and at most 75."""
        starts = np.array([found.start() for found in WORDS.finditer(text.casefold())], np.int64)
        table, vectors = self.pair.table.detach(), np.zeros((len(spans), self.dim), np.float32)
        for n, (start, end) in enumerate(spans):
            own = _buckets(text[start:end])
            if own:
                vectors[n] = table[own].mean(0).numpy()
        places = np.searchsorted(starts, [start for start, _ in spans]) + 1
        return vectors, np.minimum(places, PLACES - 2).astype(np.int64)


def train_light_pair(
    texts: Sequence[str],
    pictures: Sequence[np.ndarray],
    dim: int = 64,
    steps: int = 1500,
    batch: int = 256,
    seed: int = 0,
    show: bool = False,
) -> LightPair:
    """Return towers trained on items: a text and descriptors float32 [n >= 1, F] of its photo and of its objects each.

    A step pairs one picture of an item with its whole text, or with a part of it, drawn anew.

    Example: `train_light_pair(texts, [describe([photo, *objects]) for photo, objects in shown])`
    """
    generator = derive_generator(seed, "light-pair")
    pair = LightPair(dim, generator)
    bags = [_buckets(text) for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in pictures])])
    table = torch.from_numpy(np.concatenate(pictures))
    optimizer = torch.optim.Adam(pair.parameters(), lr=2e-3, weight_decay=1e-6)
    rng = np.random.default_rng(seed)
    usable = np.array([n for n, bag in enumerate(bags) if bag], np.int64)
    with Meter("training the light encoder", steps, "steps", show) as meter:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - step / steps)
            items = rng.choice(usable, size=min(batch, len(usable)), replace=False)
            rows = offsets[items] + (rng.random(len(items)) * np.diff(offsets)[items]).astype(np.int64)
            shown = table[torch.from_numpy(rows)]
            noise = torch.randn(shown.shape, generator=generator) * 0.02
            optimizer.zero_grad(set_to_none=True)
            vectors = pair.text(*_bags([_part(bags[item], rng) for item in items]))
            pair.loss(pair.picture(shown + noise), vectors).backward()
            optimizer.step()
            meter.add()
    return pair.eval()


def describe(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Return the light descriptors of readable pictures, float32 [n, F]."""
    pixels = [read_picture(picture) for picture in pictures]
    return describe_pixels(np.stack(pixels)).astype(np.float32) if pixels else np.zeros((0, DESCRIPTORS), np.float32)


def _buckets(text: str) -> list[int]:
    return [zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS for word in WORDS.findall(text.casefold())]


def _part(bag: list[int], rng: np.random.Generator) -> list[int]:
    """Return all words of a text, or every other time some that stand together."""
    if len(bag) <= WINDOW or rng.random() < 0.5:
        return bag
    start = int(rng.integers(len(bag) - WINDOW + 1))
    return bag[start : start + WINDOW]


def _bags(bags: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    words = torch.tensor([word for bag in bags for word in bag], dtype=torch.int64)
    counts = torch.tensor([0, *(len(bag) for bag in bags)], dtype=torch.int64)
    return words, counts.cumsum(0)[:-1]


def _waves(places: int, dim: int) -> np.ndarray:
    """Return sines and cosines of falling frequency, float32 [places, dim]."""
    steps = np.arange(places)[:, None] / 1000.0 ** (np.arange((dim + 1) // 2) / max(1, dim // 2))
    return np.concatenate([np.sin(steps), np.cos(steps)], axis=1)[:, :dim].astype(np.float32)
