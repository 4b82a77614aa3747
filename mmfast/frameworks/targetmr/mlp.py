"""The residual networks of TargetMR's Table 5, and the loop that trains one until its held-out score stays flat."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmfast.config import Config
from mmfast.embeddings import xavier

Activation = Literal["relu", "gelu", "none"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "none": lambda x: x}


class StageConfig(Config):
    """How a selector is trained; the numbers of the paper where it gives them (section 4.1.4 and Table 5)."""

    learning_rate: float = Field(1e-3, gt=0)
    """Adam's learning rate."""
    batch_size: int = Field(512, ge=1)
    """Items per step."""
    epochs: int = Field(200, ge=0)
    """Most passes over the training items."""
    patience: int = Field(10, ge=0)
    """Stop after so many epochs without a better held-out score."""
    hold_out: float = Field(0.2, gt=0, lt=1)
    """Share of the usable items that training does not see."""
    activation: Activation = "relu"
    """Activation of every layer but the scoring one; the paper names none."""


class Block(nn.Module):
    """h + LN(act(h W + b)), the order in which Table 5 lists the layers."""

    def __init__(self, dim: int, activation: Activation) -> None:
        super().__init__()
        self.linear, self.norm, self.activation = nn.Linear(dim, dim), nn.LayerNorm(dim), ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the next hidden vectors [n, D]."""
        return hidden + self.norm(self.activation(self.linear(hidden)))


class ResidualMLP(nn.Module):
    """act(x W + b), then residual blocks: the body of both selectors. Weights Xavier normal, biases 0."""

    def __init__(self, in_dim: int, dim: int, blocks: int, activation: Activation, generator: torch.Generator) -> None:
        super().__init__()
        self.stem, self.activation = nn.Linear(in_dim, dim), ACTIVATIONS[activation]
        self.blocks = nn.Sequential(*(Block(dim, activation) for _ in range(blocks)))
        start(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, D] of x [n, in_dim]."""
        return self.blocks(self.activation(self.stem(x)))


def start(module: nn.Module, generator: torch.Generator) -> None:
    """Give every linear map of a module Xavier normal weights and zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            xavier(part.weight.data, "xavier_normal", generator)
            nn.init.zeros_(part.bias)


def halves(usable: Tensor, hold_out: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (items to train on, items held out) of usable ones [n], drawn at random; of a single one both are it."""
    shuffled = usable[torch.randperm(len(usable), generator=generator)]
    held = min(max(1, round(hold_out * len(usable))), len(usable) - 1)
    return (shuffled[held:], shuffled[:held]) if held else (shuffled, shuffled)


def train_until_flat(
    module: nn.Module,
    items: Tensor,
    loss: Callable[[Tensor], Tensor],
    score: Callable[[], float],
    settings: StageConfig,
    generator: torch.Generator,
) -> list[float]:
    """Minimise loss(batch of items) with Adam and leave the module at its best score(); return the scores by epoch.

    items: int64 [n]; `score` is of held-out items, the higher the better. The first score is that of the start.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    best, kept, waited = score(), copy.deepcopy(module.state_dict()), 0
    scores = [best]
    while len(scores) <= settings.epochs and waited <= settings.patience:
        module.train()
        for batch in items[torch.randperm(len(items), generator=generator)].split(settings.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss(batch).backward()
            optimizer.step()
        module.eval()
        scores.append(score())
        waited += 1
        if scores[-1] > best:
            best, kept, waited = scores[-1], copy.deepcopy(module.state_dict()), 0
    module.load_state_dict(kept)
    module.eval()
    return scores
