"""OGM and OGM-GE: the gradients of the modality that is ahead are damped (Peng et al., CVPR 2022), on any backbone.

Adapted to recommenders: how far a modality is ahead is read from its margins, and the gradients scaled are those of the
parameters that belong to it alone, of any rank. Adam takes a constant scale out again, so the effect comes from scales
that change in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmfast.config import FrameworkConfig
from mmfast.frameworks.base import Framework
from mmfast.ops import batch_mean
from mmfast.registry import FRAMEWORKS

if TYPE_CHECKING:
    from mmfast.data.sampler import Batch
    from mmfast.models.base import Recommender


@FRAMEWORKS.register("ogm")
class OGM(Framework):
    """Gradients of modality m times k_m = 1 - tanh(alpha r_m) where r_m = s_m / mean of the others' s is above 1."""

    class Config(FrameworkConfig):
        """Options of OGM."""

        alpha: float = Field(0.1, ge=0)
        """Strength of the damping; the grid is 0.1, 0.3, 0.5, 0.8, 1.0."""
        ge: bool = False
        """Add normal noise of each gradient's own deviation (OGM-GE)."""
        first_epoch: int = Field(0, ge=0)
        """First epoch, from 0, with damping."""
        last_epoch: int = Field(50, ge=0)
        """Last epoch with damping."""

    doors = ("gradients",)
    over_ranks = True

    def __init__(self, inner: Recommender | Framework, config: Config | None = None) -> None:
        super().__init__(inner, config)
        self.check_modalities()
        modalities = self.modalities
        self.alone = [frozenset(modalities) - {m} for m in modalities]
        # Where scores are sums over modalities, hiding one takes its own part away: full - hidden.
        self.hides = [frozenset(), *(frozenset({m}) for m in modalities)] if self.model.late_fusion else self.alone
        self.shares: list[torch.Tensor] = []
        self.scales: torch.Tensor | None = None
        self.active = True

    @property
    def uses_negatives(self) -> bool:
        """Always: a modality is judged by pairs, whatever the model's loss does."""
        return True

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Damp from the first to the last epoch asked for."""
        super().on_epoch_start(epoch, generator)
        self.active = self.config.first_epoch <= epoch <= self.config.last_epoch
        self.scale_sum, self.steps = 0, 0

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms of what is inside; the scales of this batch's gradients are found on the way."""
        if not self.active:
            return self.inner_loss(batch)
        with self.model.sharing(self.hides):
            terms = self.inner_loss(batch)
            with torch.no_grad():
                margins = self.model.margins(batch, self.hides)
        own = margins[0] - margins[1:] if self.model.late_fusion else margins
        self.shares.append(batch_mean(torch.sigmoid(own).mean(1)))  # of a part where a batch is taken in parts
        self.scales = gradient_scales(torch.stack(self.shares).mean(0), self.config.alpha)
        return terms

    def adjust_gradients(self) -> None:
        """Scale the gradients of every modality's own parameters, and add the noise of GE."""
        super().adjust_gradients()
        if not self.active:
            return
        self.shares.clear()
        self.scale_sum, self.steps = self.scale_sum + self.scales, self.steps + 1
        for modality, scale in zip(self.modalities, self.scales, strict=True):
            for parameter, part in self.inner.modality_parameters(modality):
                if parameter.grad is not None:
                    values = parameter.grad._values() if parameter.grad.is_sparse else parameter.grad
                    modulate_(values[part], scale, self.config.ge)

    def measures(self) -> dict[str, float]:
        """Return the mean scale of every modality's gradients."""
        found = super().measures()
        if self.active and self.steps:
            means = (self.scale_sum / self.steps).tolist()
            found |= {f"scale_{m}": mean for m, mean in zip(self.modalities, means, strict=True)}
        return found


def gradient_scales(shares: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return k [M] of the modalities' s [M], each above 0: 1 - tanh(alpha r) where r, s over the others' mean, is > 1.

    >>> gradient_scales(torch.tensor([0.6, 0.3]), 0.5)
    tensor([0.2384, 1.0000])
    """
    ratio = shares * (len(shares) - 1) / (shares.sum() - shares)
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), torch.ones_like(ratio))


def modulate_(grad: torch.Tensor, scale: torch.Tensor, noise: bool) -> None:
    """Multiply a gradient by a scalar in place; `noise` adds normal noise of the deviation it had before, plus 1e-8."""
    deviation = grad.std(correction=min(1, grad.numel() - 1)) + 1e-8 if noise and grad.numel() else None
    grad.mul_(scale)
    if deviation is not None:
        grad.add_(torch.randn_like(grad) * deviation)
