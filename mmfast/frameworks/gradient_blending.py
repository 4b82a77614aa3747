"""Gradient Blending: a head for each modality and one for all, weighed by how well they generalise (Wang, CVPR 2020).

Adapted to recommenders: the head of a modality is the BPR loss with the others hidden, the head of all is the model's
own ranking loss. For early fusion the hidden passes stand for the parting of the parameters.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from mmfast.checkpoint import write_text
from mmfast.config import FrameworkConfig
from mmfast.data.sampler import Batch, Sampler
from mmfast.frameworks.base import Fit, Framework
from mmfast.ops import batch_mean, sample_negatives
from mmfast.optim import Adam
from mmfast.ranks import by_first
from mmfast.registry import FRAMEWORKS
from mmfast.seeds import derive_generator, derive_seed

if TYPE_CHECKING:
    from mmfast.data.dataset import Interactions
    from mmfast.models.base import Recommender

FILE = "gradient_blending.json"
LEAST_GAIN, LEAST_OVERFITTING, MOST_WEIGHT = 1e-8, 1e-4, 0.9


@FRAMEWORKS.register("gradient_blending")
class GradientBlending(Framework):
    """loss = sum_k g_k L_k over the modalities and all of them together, g_k ~ dG_k / dO_k^2 and of sum 1."""

    class Config(FrameworkConfig):
        """Options of Gradient Blending. Every estimate trains each head alone on a copy of the model."""

        mode: Literal["online", "offline"] = "online"
        """online: estimate anew before every super-epoch but the first; offline: once, from the untrained model."""
        super_epoch: int = Field(10, ge=1)
        """Epochs of a super-epoch, and of training a head alone."""
        offline_epochs: int | None = Field(None, ge=1)
        """Epochs of training a head alone in offline mode; None: the whole schedule, train.epochs."""

    doors = ("loss",)
    over_ranks = True

    def __init__(self, inner: Recommender | Framework, config: Config | None = None) -> None:
        super().__init__(inner, config)
        self.check_modalities()
        modalities = self.modalities
        self.hides = [frozenset(modalities) - {m} for m in modalities] + [frozenset()]
        self.register_buffer("weights", torch.full((len(self.hides),), 1 / len(self.hides)))

    @property
    def uses_negatives(self) -> bool:
        """Always: the heads compare pairs, whatever the model's loss does."""
        return True

    def prepare(self, fit: Fit) -> None:
        """Draw the triples that losses are measured on; estimate the weights in offline mode, if not done before."""
        super().prepare(fit)
        self.fit = fit
        seed, train = derive_seed(fit.config.seed, "gradient_blending"), fit.config.train
        self.sampler = Sampler(fit.dataset, train.batch_size, seed, order=train.sampler, negatives=train.negatives)
        rows = torch.randperm(len(fit.dataset.train), generator=torch.Generator().manual_seed(seed))
        self.parts = [
            self.measured(fit.dataset.train, rows[: len(fit.dataset.valid)]),
            self.measured(fit.dataset.valid, torch.arange(len(fit.dataset.valid))),
        ]
        if self.config.mode == "offline":
            path = fit.folder / FILE
            if not by_first(path.is_file):
                weights = self.estimate(0, self.config.offline_epochs or train.epochs)
                by_first(lambda: write_text(path, json.dumps(weights.tolist()) + "\n"))
            self.weights.copy_(torch.tensor(json.loads(path.read_text())))

    def measured(self, pairs: Interactions, rows: torch.Tensor) -> Batch:
        """Return rows of a part with fixed negatives, none of them a training item of the user."""
        dataset = self.fit.dataset
        users, items = (torch.tensor(side, dtype=torch.int64)[rows] for side in (pairs.users, pairs.items))
        ptr, train_items = (torch.tensor(array) for array in dataset.train.by_user(dataset.num_users))
        seed = derive_seed(self.fit.config.seed, "gradient_blending", "negatives")
        negatives = sample_negatives(users, ptr, train_items, torch.tensor(dataset.train_items), seed)
        return Batch(users, items, negatives.long(), dataset.num_users, dataset.num_items, len(rows)).to(
            self.fit.device
        )

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Estimate the weights before a super-epoch."""
        if self.config.mode == "online" and epoch and epoch % self.config.super_epoch == 0:
            self.weights.copy_(self.estimate(epoch, self.config.super_epoch))
        super().on_epoch_start(epoch, generator)

    def estimate(self, epoch: int, epochs: int) -> torch.Tensor:
        """Return the weights [K] by training each head alone for `epochs` from the model as it is."""
        seed = derive_seed(self.fit.config.seed, "gradient_blending", epoch)
        with torch.random.fork_rng(devices=[self.fit.device] if self.fit.device.type == "cuda" else []):
            torch.manual_seed(seed)
            losses = torch.tensor([self.alone(hide, epoch, epochs) for hide in self.hides], dtype=torch.float64)
        return blend(losses[:, 0], losses[:, 1])

    def alone(self, hide: Collection[str], epoch: int, epochs: int) -> list[list[float]]:
        """Return [train, valid] losses of a head before and after it is trained alone, on a copy of the model."""
        model, train = copy.deepcopy(self.model), self.fit.config.train
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = Adam(parameters, lr=train.learning_rate, weight_decay=train.weight_decay)
        before = self.losses(model, hide)
        for number in range(epoch, epoch + epochs):
            model.on_epoch_start(number, derive_generator(self.fit.config.seed, "gradient_blending", number))
            for batch in self.sampler.epoch(number):
                optimizer.zero_grad(set_to_none=True)
                head_loss(model, batch.to(self.fit.device), hide).backward()
                optimizer.step()
                model.after_step()
        return [before, self.losses(model, hide)]

    def losses(self, model: Recommender, hide: Collection[str]) -> list[float]:
        """Return a head's [train, valid] losses in evaluation mode."""
        training = model.training
        model.eval()
        with torch.no_grad():
            losses = [head_loss(model, part, hide).item() for part in self.parts]
        model.train(training)
        return losses

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms of what is inside, the ranking term weighed, and a term `head_*` for each modality."""
        modalities, name = self.modalities, self.model.ranking_term
        with self.model.sharing(self.hides):
            terms = dict(self.inner_loss(batch))
            margins = self.model.margins(batch, self.hides[:-1])
        terms[name] = self.weights[-1] * terms[name]
        heads = self.weights[:-1] * batch_mean(F.softplus(-margins).mean(1))
        return terms | {f"head_{m}": head for m, head in zip(modalities, heads, strict=True)}

    def measures(self) -> dict[str, float]:
        """Return the weight of every head."""
        names = [f"weight_{m}" for m in (*self.modalities, "all")]
        return {**super().measures(), **dict(zip(names, self.weights.tolist(), strict=True))}


def head_loss(model: Recommender, batch: Batch, hide: Collection[str]) -> torch.Tensor:
    """Return the BPR loss of a batch with modalities hidden, a scalar."""
    with model.sharing([hide]):
        return F.softplus(-model.margins(batch, [hide])).mean()


def blend(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the weights [K] of heads whose losses (train, valid), [K, 2], went from `before` to `after`.

    g_k = dG_k / dO_k^2 / Z with the gain dG = valid before - valid after and the overfitting O = valid - train. A
    gain of 0 or less counts as 1e-8, a change of overfitting below 1e-4 as 1e-4; no weight exceeds 0.9, what is above
    goes to the others in proportion.

    >>> blend(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.6], [0.5, 0.7]]))
    tensor([0.8421, 0.1579])
    """
    gain = (before[:, 1] - after[:, 1]).clamp(min=LEAST_GAIN)
    overfitting = ((after - before) * after.new_tensor([-1.0, 1.0])).sum(1).abs().clamp(min=LEAST_OVERFITTING)
    weights = gain / overfitting.square()
    weights = weights / weights.sum()
    top = weights.argmax()
    if weights[top] > MOST_WEIGHT:
        rest = weights.clone()
        rest[top] = 0
        weights = (1 - MOST_WEIGHT) * rest / rest.sum()
        weights[top] = MOST_WEIGHT
    return weights
