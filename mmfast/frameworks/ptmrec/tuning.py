"""What PTMRec trains inside CLIP: deep prompts (MaPLe's, without coupling), low-rank changes or adapters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from mmfast.config import Config
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPT_STD = 0.02  # MaPLe's


class TuningConfig(Config):
    """How CLIP is tuned; the defaults are the specification's."""

    method: Literal["prompt", "lora", "adapter"] = "prompt"
    """What is inserted into every block of both towers."""
    num_prompts: int = Field(2, ge=1)
    """Prompt tokens n per prompted block; the grid is 1, 2, 4, 8."""
    prompt_depth: int = Field(9, ge=1)
    """Prompted blocks i of either tower, from the first; the grid is 1, 3, 6, 9, 12."""
    after_sot: bool = False
    """Text prompts behind the start token (MaPLe) instead of in front of it (the paper)."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the change of query and value weights; alpha is the rank as well, so its factor is 1."""
    adapter_divisor: int = Field(4, ge=1)
    """An adapter's bottleneck is the tower's width divided by this."""


class BlockChange(nn.Module):
    """What a block does beside its frozen weights; this one does nothing."""

    def query(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the queries of tokens x [B, L, D], None for nothing."""
        return None

    def value(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the values of tokens x [B, L, D], None for nothing."""
        return None

    def after_attention(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the attention, [B, L, D], before it is added to its input."""
        return x

    def after_mlp(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the MLP, [B, L, D], before it is added to its input."""
        return x


class LowRank(BlockChange):
    """LoRA on query and value: x (B A)^T, A Kaiming uniform, B zero."""

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)  # Kaiming's with a = sqrt(5), as LoRA's authors use it
        self.down = nn.ParameterList(
            torch.empty(rank, width).uniform_(-bound, bound, generator=generator) for _ in range(2)
        )
        self.up = nn.ParameterList(torch.zeros(width, rank) for _ in range(2))

    def query(self, x: torch.Tensor) -> torch.Tensor:
        """Return the change of the queries."""
        return self._product(x, 0)

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """Return the change of the values."""
        return self._product(x, 1)

    def _product(self, x: torch.Tensor, which: int) -> torch.Tensor:
        return F.linear(F.linear(x, self.down[which].to(x.dtype)), self.up[which].to(x.dtype))


class Bottleneck(nn.Module):
    """x + up(gelu(down(x))), up zero at first."""

    def __init__(self, width: int, inner: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.down = nn.Parameter(torch.empty(inner, width).uniform_(-bound, bound, generator=generator))
        self.down_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(width, inner))
        self.up_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x changed, [B, L, D]."""
        down, down_bias, up, up_bias = (p.to(x.dtype) for p in (self.down, self.down_bias, self.up, self.up_bias))
        return x + F.linear(F.gelu(F.linear(x, down, down_bias)), up, up_bias)


class Adapters(BlockChange):
    """Houlsby's two adapters of a block: after the attention and after the MLP."""

    def __init__(self, width: int, inner: int, generator: torch.Generator) -> None:
        super().__init__()
        self.attention = Bottleneck(width, inner, generator)
        self.mlp = Bottleneck(width, inner, generator)

    def after_attention(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the attention through its adapter."""
        return self.attention(x)

    def after_mlp(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the MLP through its adapter."""
        return self.mlp(x)


class TowerTuning(nn.Module):
    """What is trained in one tower: `prompts` [i, n, D] or None, and one change per block."""

    def __init__(self, prompts: torch.Tensor | None, changes: Sequence[BlockChange]) -> None:
        super().__init__()
        self.register_parameter("prompts", None if prompts is None else nn.Parameter(prompts))
        self.changes = nn.ModuleList(changes)

    @property
    def depth(self) -> int:
        """Number of prompted blocks."""
        return 0 if self.prompts is None else len(self.prompts)


def build_tuning(clip: Any, config: TuningConfig, generator: torch.Generator) -> nn.ModuleDict:
    """Return what is trained in the towers "image" and "text" of an open_clip CLIP model.

    Raises MmfastError where more blocks are to be prompted than there are.

    >>> build_tuning(clip, TuningConfig(), torch.Generator())  # doctest: +SKIP
    """
    towers = {"image": clip.visual.transformer, "text": clip.transformer}
    return nn.ModuleDict({name: _tower(name, tower, config, generator) for name, tower in towers.items()})


def _tower(name: str, tower: Any, config: TuningConfig, generator: torch.Generator) -> TowerTuning:
    width, blocks = tower.width, len(tower.resblocks)
    if config.method == "lora":
        return TowerTuning(None, [LowRank(width, config.lora_rank, generator) for _ in range(blocks)])
    if config.method == "adapter":
        inner = max(1, width // config.adapter_divisor)
        return TowerTuning(None, [Adapters(width, inner, generator) for _ in range(blocks)])
    if config.prompt_depth > blocks:
        raise MmfastError(
            f"ptmrec: prompt_depth is {config.prompt_depth} but CLIP's {name} tower has {blocks} blocks; "
            f"choose tuning.prompt_depth <= {blocks}"
        )
    prompts = torch.empty(config.prompt_depth, config.num_prompts, width)
    return TowerTuning(prompts.normal_(std=PROMPT_STD, generator=generator), [BlockChange() for _ in range(blocks)])


def untuned(clip: Any) -> nn.ModuleDict:
    """Return what leaves both towers as they are."""
    towers = {"image": clip.visual.transformer, "text": clip.transformer}
    return nn.ModuleDict(
        {name: TowerTuning(None, [BlockChange() for _ in tower.resblocks]) for name, tower in towers.items()}
    )
