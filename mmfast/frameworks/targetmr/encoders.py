"""What TargetMR asks of a model of pictures and texts (Eq. 7, 11, 15), and CLIP as that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from mmfast.content.bpe import ClipPieces
from mmfast.content.encode_clip import ClipEncoder
from mmfast.content.encoders import EncodeConfig, parse_encoder
from mmfast.errors import MmfastError

Span = tuple[int, int]


class ObjectEncoder(Protocol):
    """Pictures, texts and single words as vectors of one width D; `identity` tells its weights from any others."""

    identity: str
    dim: int
    positions: np.ndarray
    """float32 [L, D]: the vector of every place that a word can stand at."""

    def texts(self, batch: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts, float32 [n, D], not normalised (CLIP_txt)."""

    def pictures(self, batch: Sequence[Image.Image]) -> np.ndarray:
        """Return the vectors of RGB pictures, float32 [n, D], not normalised (CLIP_img)."""

    def words(self, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        """Return (token vectors float32 [n, D], places int64 [n]) of the words at these characters of a text."""


class ClipObjects:
    """A CLIP model through open_clip, both towers: projected features, token embeddings and positions, all frozen."""

    def __init__(self, name: str, device: str = "auto") -> None:
        """name: as for `mmfast features --text`. Raises MmfastError as that does, and where widths differ."""
        config = EncodeConfig(model=name, device=device)
        self._text = _TextTower(parse_encoder("text", name), config)
        self._image = ClipEncoder(parse_encoder("image", name), config)
        self.dim, self.identity = self._text.dim, f"clip:{self._text.settings['weights']}"
        tokens, positions = self._text.tables()
        if tokens.shape[1] != self.dim:
            raise MmfastError(
                f"targetmr: encoder '{name}' has words of width {tokens.shape[1]} and features of width {self.dim}; "
                "Eq. 14 adds the two: choose a model where they are equal, such as clip (ViT-B/32)"
            )
        self._tokens, self.positions = tokens, positions
        self._pieces = ClipPieces(self._text.tokenizer)

    def texts(self, batch: Sequence[str]) -> np.ndarray:
        """Return projected text features, float32 [n, D]; texts are cut at 77 tokens."""
        return self._text.encode(list(batch))

    def pictures(self, batch: Sequence[Image.Image]) -> np.ndarray:
        """Return projected picture features, float32 [n, D]."""
        return self._image.encode(torch.stack([self._image.transform(picture) for picture in batch]))

    def words(self, text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean token embedding of each word's pieces, and the place of its first piece."""
        found = self._pieces.words(text, spans)
        sums = np.add.reduceat(self._tokens[found.ids], found.offsets[:-1], axis=0) if len(spans) else None
        counts = np.diff(found.offsets)[:, None]
        return (sums / counts if sums is not None else np.zeros((0, self.dim), np.float32)), found.position


class _TextTower(ClipEncoder):
    """The text tower with its tables of tokens and positions."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that belongs to the weights."""
        return self._tokenizer

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (token embeddings [V, W], positional embeddings [L, W]), float32."""
        text: Any = getattr(self._tower, "text", self._tower)
        tables = (text.token_embedding.weight, text.positional_embedding)
        return tuple(table.detach().float().cpu().numpy() for table in tables)
