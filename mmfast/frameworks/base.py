"""Framework: how a backbone is trained; the class itself is plain training, a subclass overrides what it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mmfast.config import FrameworkConfig, RunConfig

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch
    from mmfast.models.base import Recommender


@dataclass(frozen=True)
class Fit:
    """What a framework may know of the run it takes part in."""

    config: RunConfig
    dataset: Dataset
    device: torch.device
    folder: Path
    """The run folder; artefacts of first stages go below it."""


class Framework(nn.Module):
    """Training steps around `inner`: the backbone, or the framework one level further in.

    Parameters and buffers that a framework registers are trained and checkpointed with the model's.
    """

    Config = FrameworkConfig

    def __init__(self, inner: Recommender | Framework, config: FrameworkConfig | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.config = config or self.Config()
        self.bfloat16 = False

    @classmethod
    def backbone(
        cls,
        settings: FrameworkConfig,
        config: RunConfig,
        dataset: Dataset,
        build: Callable[[Dataset], Recommender],
    ) -> Recommender:
        """Return the backbone of a run, `build(dataset)`; a framework may build it on other features.

        Training and opening a finished run both come here. `build` is that of the framework one level further in.
        """
        return build(dataset)

    @property
    def model(self) -> Recommender:
        """The backbone in the middle."""
        return self.inner.model if isinstance(self.inner, Framework) else self.inner

    def prepare(self, fit: Fit) -> None:
        """Do once what comes before the first epoch (teachers, first stages, cached artefacts); inner ones first."""
        if isinstance(self.inner, Framework):
            self.inner.prepare(fit)

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Run the epoch hooks of everything inside; all randomness comes from `generator`."""
        self.inner.on_epoch_start(epoch, generator)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return named, already weighted scalar terms; their sum is minimised."""
        return self.inner.loss(batch)

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """Take one optimiser step on `batch` and return the detached terms."""
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.users.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            terms = self.loss(batch)
        sum(terms.values()).backward()
        optimizer.step()
        self.model.after_step()
        return {name: term.detach() for name, term in terms.items()}
