"""The text target selector f_sel (Eq. 7-10) and the vectors of text objects (Eq. 11-14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfast.embeddings import xavier
from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.mlp import ResidualMLP, StageConfig, halves, start, train_until_flat
from mmfast.frameworks.targetmr.ragged import Ragged, padded, places_of, segment_argmax
from mmfast.seeds import derive_generator

BLOCKS = 6
NO_LABEL = -1
ROWS = 1 << 15  # objects that are scored at a time outside training


@dataclass(frozen=True)
class TextVectors:
    """What CLIP says of the texts and their objects, nothing of it trained.

    texts: float [I, D], Eq. 7's tv, zeros without a text; words, contexts: float [O, D], tj and c (Eq. 11-13) of the
    objects of all items, those of item v in rows ptr[v] : ptr[v + 1]; position: int64 [O], where an object's first
    piece stands; positions: float [L, D], CLIP's rows for these places.
    """

    texts: Tensor
    words: Tensor
    contexts: Tensor
    position: Tensor
    positions: Tensor
    ptr: Tensor

    def objects(self, normalize_each: bool = False) -> Ragged:
        """Return tj + c of every object (Eq. 14); `normalize_each` brings both to length 1 before."""
        parts = (self.words, self.contexts)
        if normalize_each:
            parts = tuple(F.normalize(part, dim=-1, eps=1e-8) for part in parts)
        return Ragged(parts[0] + parts[1], self.ptr)


class TextTargetSelector(nn.Module):
    """logit_j = f_sel([tv || tj || pj]) (Eq. 8); 2,369,537 parameters at D = 512, as in Table 5."""

    def __init__(
        self,
        positions: Tensor,
        activation: Literal["relu", "gelu", "none"],
        learned_positions: bool,
        generator: torch.Generator,
    ) -> None:
        """positions: [L, D], CLIP's own, kept frozen; `learned_positions` starts a table of the same shape instead."""
        super().__init__()
        dim = positions.shape[1]
        self.body = ResidualMLP(3 * dim, dim, BLOCKS, activation, generator)
        self.scoring = nn.Linear(dim, 1)
        start(self.scoring, generator)
        table = positions.detach().clone()
        if learned_positions:
            xavier(table, "xavier_normal", generator)
        self.positions = nn.Parameter(table, requires_grad=learned_positions)

    def forward(self, texts: Tensor, words: Tensor, position: Tensor) -> Tensor:
        """Return logits [n] of objects: their item's text [n, D], their word [n, D], their place int64 [n]."""
        hidden = self.body(torch.cat([texts, words, self.positions[position]], dim=1))
        return self.scoring(hidden).squeeze(1)

    def score(self, vectors: TextVectors, items: Tensor | None = None) -> Ragged:
        """Return the logits of all objects of some items (None: of all), with a gradient."""
        if items is None:
            items = torch.arange(len(vectors.texts), device=vectors.ptr.device)
        rows, ptr = places_of(vectors.ptr, items)
        owner = Ragged(rows, ptr).owners()
        texts = vectors.texts.index_select(0, items[owner])
        return Ragged(self(texts, vectors.words[rows], vectors.position[rows]), ptr)

    @torch.no_grad()
    def choose(self, vectors: TextVectors) -> Tensor:
        """Return the place of each item's target among its objects, int64 [I], -1 for an item without any (step 5)."""
        parts, start_at, num_items = [], 0, len(vectors.texts)
        while start_at < num_items:
            stop = int(torch.searchsorted(vectors.ptr, vectors.ptr[start_at] + ROWS))
            stop = min(max(stop, start_at + 1), num_items)
            items = torch.arange(start_at, stop, device=vectors.ptr.device)
            parts.append(segment_argmax(*self.score(vectors, items)))
            start_at = stop
        return torch.cat(parts) if parts else vectors.ptr[:0]


def selection_loss(logits: Ragged, labels: Tensor) -> Tensor:
    """Return L_CE (Eq. 9-10): the mean over items of -ln softmax over the item's own objects at its label [I]."""
    return F.cross_entropy(padded(logits.values, logits.ptr, float("-inf")), labels)


@dataclass(frozen=True)
class Selection:
    """A trained selector, the accuracy on held-out labels by epoch, and how many labels it learned from."""

    selector: TextTargetSelector
    accuracy: list[float]
    labelled: int


def train_selector(
    vectors: TextVectors, labels: Tensor, settings: StageConfig, learned_positions: bool, seed: int
) -> Selection:
    """Train f_sel on labels int64 [I] (-1: none) and stop early on held-out accuracy; the best epoch is kept.

    Items with one object need no label and are left out. Raises MmfastError when no item with a choice has a label.

    Example: `train_selector(vectors, labels, StageConfig(), False, seed=999).selector.choose(vectors)`
    """
    usable = torch.nonzero((labels != NO_LABEL) & (vectors.ptr.diff() > 1).to(labels.device)).squeeze(1)
    if not len(usable):
        raise MmfastError(
            "text target selector: no item with two or more objects has a label, so there is nothing to learn from; "
            "label some (`mmfast targetmr label`), or apply a selector trained elsewhere (`mmfast targetmr transfer`)"
        )
    generator = derive_generator(seed, "targetmr", "select")
    selector = TextTargetSelector(vectors.positions.cpu(), settings.activation, learned_positions, generator)
    selector = selector.to(vectors.texts)
    seen, held = halves(usable.cpu(), settings.hold_out, generator)
    held = held.to(vectors.ptr.device)

    def loss(items: Tensor) -> Tensor:
        items = items.to(vectors.ptr.device)
        return selection_loss(selector.score(vectors, items), labels[items])

    @torch.no_grad()
    def accuracy() -> float:
        return (segment_argmax(*selector.score(vectors, held)) == labels[held]).double().mean().item()

    scores = train_until_flat(selector, seen, loss, accuracy, settings, generator)
    return Selection(selector, scores, len(usable))
