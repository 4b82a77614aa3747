"""Framework: how a backbone is trained; the class itself is plain training, a subclass overrides what it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmfast.config import FrameworkConfig, RunConfig
from mmfast.distributed.data_parallel import average_gradients
from mmfast.errors import MmfastError
from mmfast.ranks import world_size

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch
    from mmfast.models.base import Recommender
    from mmfast.run import Run

Loss = Callable[["Batch"], dict[str, torch.Tensor]]
DOORS = {
    "features": "puts its own item features behind the model's",
    "graph": "replaces the graph that messages pass over",
    "hide": "hides modalities from every pass",
    "loss": "scores triples with modalities hidden and adds to the loss",
    "gradients": "scales gradients before the optimiser's step",
}
"""What a framework may take part in, from the innermost to the outermost, and what it does there."""


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
    train: Callable[[RunConfig, str, bool], Run]
    """Trains another run, (config, name, whether to look at its test part), in its folder below `folder`, or
    continues it, and returns it."""
    validate: Callable[[], dict[str, float]]
    """Metrics on validation of the model as it stands."""
    test: bool
    """Whether the run looks at its test part."""


class Framework(nn.Module):
    """Training steps around `inner`: the backbone, or the framework one level further in.

    Parameters and buffers that a framework registers are trained and checkpointed with the model's. A subclass names
    the `doors` it takes, keys of DOORS: by them `check_composition` tells which frameworks go together. It sets
    `over_ranks` to True where it is right when ranks divide the batch (`batch_mean`, `batch_rows`) and when each has
    the run to itself but for files, which the first writes (`by_first`).
    """

    Config = FrameworkConfig
    doors: tuple[str, ...] = ()
    over_ranks = False

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
        folder: Path | None,
    ) -> Recommender:
        """Return the backbone of a run, `build(dataset)`; a framework may build it on other features.

        Training and opening a finished run both come here. `build` is that of the framework one level further in;
        folder: the run's, which need not be there yet, None where there is none.
        """
        return build(dataset)

    @property
    def model(self) -> Recommender:
        """The backbone in the middle."""
        return self.inner.model if isinstance(self.inner, Framework) else self.inner

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model reads and that are not hidden from every pass."""
        return tuple(m for m in self.model.modalities if m not in self.model.masked)

    @property
    def uses_negatives(self) -> bool:
        """Whether batches must have negatives."""
        return self.inner.uses_negatives

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
        terms = self.backward(batch, self._whole_loss)
        if world_size() > 1:
            average_gradients(self.parameters())
        self.adjust_gradients()
        optimizer.step()
        self.model.after_step()
        return terms

    def _whole_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.autocast(batch.users.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            return self.loss(batch)

    def backward(self, batch: Batch, loss: Loss) -> dict[str, torch.Tensor]:
        """Take the gradient of `loss`, the outermost framework's, on a batch and return its detached terms.

        A framework overrides it that changes the batch, or takes it in parts, for all frameworks around it as well.
        """
        if isinstance(self.inner, Framework):
            return self.inner.backward(batch, loss)
        terms = loss(batch)
        sum(terms.values()).backward()
        return {name: term.detach() for name, term in terms.items()}

    def adjust_gradients(self) -> None:
        """Change the gradients before the optimiser's step; inner frameworks first."""
        if isinstance(self.inner, Framework):
            self.inner.adjust_gradients()

    def modality_parameters(self, modality: str) -> list[tuple[nn.Parameter, tuple[slice, ...]]]:
        """Return the parameters of one modality alone, each with the part of it that is meant; the model's first."""
        return self.inner.modality_parameters(modality)

    def measures(self) -> dict[str, float]:
        """Return what the epoch's log row tells beside the loss, at the end of an epoch."""
        return self.inner.measures() if isinstance(self.inner, Framework) else {}

    def chosen(self, folder: Path, valid: Mapping[str, float], monitor: str) -> tuple[Path | None, dict[str, Any]]:
        """Return (the folder of an earlier stage that is the better result, or None; what metrics.json tells of it).

        valid: the validation metrics of the run's best epoch; folder: the run's.
        """
        return self.inner.chosen(folder, valid, monitor) if isinstance(self.inner, Framework) else (None, {})

    def inner_loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms of what is inside, which sees negatives only where it asks for them."""
        return self.inner.loss(batch if self.inner.uses_negatives else replace(batch, neg_items=None, others=None))

    def check_modalities(self, least: int = 2) -> None:
        """Raise MmfastError when the model reads fewer than `least` modalities."""
        found = self.modalities
        if len(found) < least:
            name, model = type(self).registry_name, type(self.model).registry_name
            raise MmfastError(
                f"{name} balances the modalities of a model, and '{model}' reads {', '.join(found) or 'none'} here; "
                f"choose a model and data with {least} or more (model=vbpr), or leave framework={name} out"
            )


def check_composition(frameworks: Sequence[type[Framework]]) -> None:
    """Raise MmfastError, with the reason, unless the frameworks, innermost first, go together.

    No two may take the same door of the model, and one that changes what goes in stands inside one that reads what
    comes out: the order of DOORS.
    """
    order = list(DOORS)
    for number, outer in enumerate(frameworks):
        for inner in frameworks[:number]:
            a, b = inner.registry_name, outer.registry_name
            if both := [door for door in order if door in inner.doors and door in outer.doors]:
                raise MmfastError(f"framework: {a} and {b} do not go together: each {DOORS[both[0]]}; keep one of them")
            if inner.doors and outer.doors and max(map(order.index, inner.doors)) > min(map(order.index, outer.doors)):
                raise MmfastError(
                    f"framework: [{a}, {b}] is the wrong way round: {b} {DOORS[outer.doors[0]]}, which {a} "
                    f"must see; write framework=[{b}, {a}], outermost last"
                )
