"""A small encoder of pictures and texts trained on a catalogue's own pairs: CLIP's part where no weights can be had.

Words have learned vectors and weights, a text is the weighted mean of its words, a picture is a small network over the
light descriptors. Every word of a text is to be seen in one of the photo's objects, which one being unknown: the
noisy-or of Fang et al., "From Captions to Visual Concepts and Back", CVPR 2015. Whole photos and texts meet by the
contrastive loss of CLIP. It serves the demo and tests: CLIP knows the world, this only what the catalogue shows.
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
TEXT_LENGTH = 4.0  # times the mean of its words, and WORD_LENGTH times a word's vector: as with CLIP, a text is to
WORD_LENGTH = 0.5  # outweigh one word's embedding
PICTURE_LENGTH = 40.0  # times what the tower gives: pictures as long as what f_ref adds to them, some sqrt(8 D)
NOISE = 0.02  # standard deviation of what is added to descriptors
WINDOW = 16  # words of the parts of texts that training shows beside whole ones
CONTRAST = 6.0  # weight of the contrastive loss beside the words' likelihood
SEEN_WORDS = 2048  # the most frequent words, which objects are to show
BIAS = -3.0  # log odds, at the start, that an object at right angles to a word shows it
RATE = 5e-3
VERSION = 2  # raised with every change of what is learned


class LightPair(nn.Module):
    """The two towers; D = `dim`."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.table = nn.Parameter(torch.randn(BUCKETS, dim, generator=generator) / math.sqrt(dim))
        self.weight = nn.Parameter(torch.zeros(BUCKETS))
        self.first, self.second = linear(DESCRIPTORS, HIDDEN, generator), linear(HIDDEN, dim, generator)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.1)))
        self.log_slope = nn.Parameter(torch.tensor(math.log(5.0)))
        self.bias = nn.Parameter(torch.full((BUCKETS,), BIAS))

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

    def unseen(self, objects: Tensor, owner: Tensor, words: Tensor) -> Tensor:
        """Return the log probability [max(owner) + 1, V] that none of a photo's objects [n, D] shows a word [V]."""
        cosines = F.normalize(objects, dim=1) @ F.normalize(self.table[words], dim=1).t()
        missed = -F.softplus(self.log_slope.exp() * cosines + self.bias[words])
        return missed.new_zeros(int(owner[-1]) + 1, len(words)).index_add(0, owner, missed)


class LightObjects:
    """A trained pair of towers as an object encoder; runs on the CPU."""

    def __init__(self, pair: LightPair) -> None:
        self.pair, self.dim = pair.eval(), pair.dim
        self.identity = f"light-pair-{VERSION}-{TEXT_LENGTH}-{WORD_LENGTH}-{PICTURE_LENGTH}:{hash_weights(pair)}"
        self.positions = POSITION_LENGTH * _waves(PLACES, pair.dim)

    @torch.inference_mode()
    def texts(self, batch: Sequence[str]) -> np.ndarray:
        """Return the weighted mean of each text's words, lengthened, float32 [n, D]."""
        return TEXT_LENGTH * self.pair.text(*_bags([_buckets(text) for text in batch])).numpy()

    @torch.inference_mode()
    def pictures(self, batch: Sequence[Image.Image]) -> np.ndarray:
        """Return picture vectors, lengthened, float32 [n, D]."""
        return PICTURE_LENGTH * self.pair.picture(torch.from_numpy(describe(batch))).numpy()

    def words(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the shortened vectors of words, and which of the text they are, counted from 1 and at most 75."""
        starts = np.array([found.start() for found in WORDS.finditer(text.casefold())], np.int64)
        table, vectors = self.pair.table.detach(), np.zeros((len(spans), self.dim), np.float32)
        for n, (start, end) in enumerate(spans):
            own = _buckets(text[start:end])
            if own:
                vectors[n] = WORD_LENGTH * table[own].mean(0).numpy()
        places = np.searchsorted(starts, [start for start, _ in spans]) + 1
        return vectors, np.minimum(places, PLACES - 2).astype(np.int64)


def train_light_pair(
    texts: Sequence[str],
    pictures: Sequence[np.ndarray],
    dim: int = 64,
    steps: int = 800,
    batch: int = 256,
    seed: int = 0,
    show: bool = False,
) -> LightPair:
    """Return towers trained on items: a text and descriptors float32 [n >= 1, F] of its photo and of its objects each.

    Rows 0 are whole photos, the others their objects; a photo alone is its own object. A step shows the objects of some
    items beside the words of their texts, and the whole photos beside whole texts or parts of them, drawn anew.

    Example: `train_light_pair(texts, [describe([photo, *objects]) for photo, objects in shown])`
    """
    generator, rng = derive_generator(seed, "light-pair"), np.random.default_rng(seed)
    pair, pairs = LightPair(dim, generator), _Shown(texts, pictures)
    optimizer = torch.optim.Adam(pair.parameters(), lr=RATE, weight_decay=1e-6)
    with Meter("training the light encoder", steps, "steps", show) as meter:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            items = rng.choice(pairs.usable, size=min(batch, len(pairs.usable)), replace=False)
            photos, objects, owner = pairs.pictures_of(items)
            photos, objects = (x + NOISE * torch.randn(x.shape, generator=generator) for x in (photos, objects))
            optimizer.zero_grad(set_to_none=True)
            unseen = pair.unseen(pair.picture(objects), owner, pairs.words)
            texts_seen = pair.text(*_bags([_part(pairs.bags[item], rng) for item in items]))
            loss = word_loss(unseen, pairs.says[items].float()) + CONTRAST * pair.loss(pair.picture(photos), texts_seen)
            loss.backward()
            optimizer.step()
            meter.add()
    return pair.eval()


def word_loss(unseen: Tensor, says: Tensor) -> Tensor:
    """Return the mean over n photos of the negative log likelihood of their texts' words.

    unseen: log probability [n, V] that no object shows a word; says: [n, V], 1 where the text has the word.
    """
    seen = torch.log(-torch.expm1(unseen.clamp(max=-1e-6)))
    return -(says * seen + (1 - says) * unseen).sum(1).mean()


class _Shown:
    """Pictures and texts of items as training draws them; `usable` are the items whose texts have a word."""

    def __init__(self, texts: Sequence[str], pictures: Sequence[np.ndarray]) -> None:
        self.bags = [_buckets(text) for text in texts]
        self.usable = np.array([n for n, bag in enumerate(self.bags) if bag], np.int64)
        self._table = torch.from_numpy(np.concatenate(pictures))
        self._offsets = np.concatenate([[0], np.cumsum([len(own) for own in pictures])])
        in_texts = np.bincount([word for bag in self.bags for word in set(bag)], minlength=BUCKETS)
        frequent = np.argsort(-in_texts, kind="stable")[:SEEN_WORDS]
        words = np.sort(frequent[in_texts[frequent] > 0])
        self.words, self.says = torch.from_numpy(words), torch.zeros(len(self.bags), len(words), dtype=torch.bool)
        for n, bag in enumerate(self.bags):
            self.says[n, np.flatnonzero(np.isin(words, bag))] = True

    def pictures_of(self, items: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return descriptors of some items' whole photos [n, F] and of their objects [m, F], and whose these are."""
        whole, last = self._offsets[items], self._offsets[items + 1]
        first = np.minimum(whole + 1, last - 1)
        rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        owner = np.repeat(np.arange(len(items)), last - first)
        return self._table[whole], self._table[rows], torch.from_numpy(owner)


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
