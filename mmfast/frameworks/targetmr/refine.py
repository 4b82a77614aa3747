"""The image target (Eq. 15-16), the refinement f_ref (Eq. 17-18) and its contrastive training (Eq. 19)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmfast.frameworks.targetmr.mlp import ResidualMLP, StageConfig, halves, train_until_flat
from mmfast.frameworks.targetmr.ragged import Ragged, segment_argmax
from mmfast.ops import target_contrast
from mmfast.seeds import derive_generator

BLOCKS = 8
EPS = 1e-8  # least length in a cosine


class RefineConfig(StageConfig):
    """How f_ref is trained."""

    clip_nce: bool = False
    """Put the positive pair into both denominators and divide by `temperature` (the CLIP form, not the paper's)."""
    temperature: float = Field(0.07, gt=0)
    """Temperature of `clip_nce`; the paper's loss has none."""

    @property
    def divisor(self) -> float:
        """The temperature that is in force."""
        return self.temperature if self.clip_nce else 1.0


class Refinement(ResidualMLP):
    """f_ref (Eq. 17-18), one network for targets and auxiliaries; 2,372,096 parameters at D = 512, as in Table 5."""

    def __init__(self, dim: int, settings: RefineConfig, generator: torch.Generator) -> None:
        super().__init__(dim, dim, BLOCKS, settings.activation, generator)


def similarities(objects: Ragged, text_target: Tensor) -> Tensor:
    """Return cos(v_i, t) of every image object [A] with its item's text target [I, D] (Eq. 16)."""
    texts = text_target.index_select(0, objects.owners())
    return F.cosine_similarity(objects.values, texts, dim=1, eps=EPS)


def choose_image_targets(objects: Ragged, text_target: Tensor) -> Tensor:
    """Return the place of the mask most similar to the text target, int64 [I], -1 without a mask (Eq. 16)."""
    return segment_argmax(similarities(objects, text_target), objects.ptr)


@dataclass(frozen=True)
class Pairs:
    """Both sides of all items before refinement: targets [I, D] and ragged auxiliaries; `usable` bool [I] may train."""

    image_target: Tensor
    image_aux: Ragged
    text_target: Tensor
    text_aux: Ragged
    usable: Tensor


def contrast(refinement: nn.Module, pairs: Pairs, items: Tensor, settings: RefineConfig) -> Tensor:
    """Return L_CL (Eq. 19) of some items, int64 [n]: the gradient flows through the refined image objects alone."""
    image, text = pairs.image_aux.take(items), pairs.text_aux.take(items)
    return target_contrast(
        refinement(pairs.image_target[items]),
        refinement(image.values),
        image.ptr,
        pairs.text_target[items],
        text.values,
        text.ptr,
        settings.divisor,
        with_positive=settings.clip_nce,
    )


def train_refinement(pairs: Pairs, settings: RefineConfig, seed: int) -> tuple[Refinement, list[float]]:
    """Return f_ref at its least held-out L_CL and the negative losses by epoch; untrained where no item can teach it.

    Items count that have a text, a photo and an auxiliary on at least one side.
    """
    generator = derive_generator(seed, "targetmr", "refine")
    refinement = Refinement(pairs.image_target.shape[1], settings, generator).to(pairs.image_target)
    with_aux = (pairs.image_aux.counts + pairs.text_aux.counts) > 0
    usable = torch.nonzero(pairs.usable & with_aux).squeeze(1).cpu()
    if not len(usable):
        return refinement.eval(), []
    seen, held = halves(usable, settings.hold_out, generator)
    device = pairs.image_target.device

    def loss(items: Tensor) -> Tensor:
        return contrast(refinement, pairs, items.to(device), settings)

    @torch.no_grad()
    def score() -> float:
        parts = [(loss(items).item(), len(items)) for items in held.split(settings.batch_size)]
        return -sum(value * size for value, size in parts) / len(held)

    return refinement, train_until_flat(refinement, seen, loss, score, settings, generator)


@torch.no_grad()
def refined(refinement: nn.Module, objects: Ragged, rows: int = 1 << 15) -> Ragged:
    """Return every image object after f_ref (step 9)."""
    parts = [refinement(part) for part in objects.values.split(rows)]
    return Ragged(torch.cat(parts) if parts else objects.values, objects.ptr)
