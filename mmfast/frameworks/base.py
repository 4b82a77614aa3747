"""Framework: how a backbone is trained; the class itself is plain training, a subclass overrides what it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmfast.config import FrameworkConfig, RunConfig

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch
    from mmfast.models.base import Recommender
    from mmfast.run import Run


@dataclass(frozen=True)
class Fit:
    """What a framework may know of the run it takes part in."""

    config: RunConfig
    dataset: Dataset
    device: torch.device
    folder: Path
    """The run folder; artefacts of first stages go below it."""
    say: Callable[[str], None]
    """Tells the user a line."""
    train: Callable[[RunConfig, str], Run]
    """Trains another run in the folder of that name below `folder`, or continues it, and returns it."""
    validate: Callable[[], dict[str, float]]
    """Metrics on validation of the model as it stands."""


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

    @property
    def model(self) -> Recommender:
        """The backbone in the middle."""
        return self.inner.model if isinstance(self.inner, Framework) else self.inner

    @classmethod
    def dataset(cls, dataset: Dataset, config: RunConfig, section: FrameworkConfig) -> Dataset:
        """Return the data set that the backbone is built on, with other features perhaps; `section` is its own."""
        return dataset

    def prepare(self, fit: Fit) -> None:
        """Do once what comes before the first epoch (teachers, first stages, cached artefacts); inner ones first.

        Parameters may be added: the optimiser is built afterwards.
        """
        if isinstance(self.inner, Framework):
            self.inner.prepare(fit)

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Run the epoch hooks of everything inside; all randomness comes from `generator`."""
        self.inner.on_epoch_start(epoch, generator)

    def on_epoch_end(self) -> None:
        """Follow the last step of an epoch, before the evaluation; inner ones first."""
        if isinstance(self.inner, Framework):
            self.inner.on_epoch_end()

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

    def chosen(self, folder: Path, valid: Mapping[str, float], monitor: str) -> tuple[Path | None, dict[str, Any]]:
        """Return (the folder of an earlier stage that is the better result, or None; what metrics.json tells of it).

        valid: the validation metrics of the run's best epoch; folder: the run's.
        """
        return None, {}
