"""Settings of PTMRec; defaults are the paper's where it gives them, else those its specification decides on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmfast.config import Config, DataConfig, FrameworkConfig
from mmfast.frameworks.ptmrec.tuning import TuningConfig

MODALITIES = ("image", "text")


class FirstStageConfig(Config):
    """What of `train` is different in stage 1, the plain training on frozen CLIP features."""

    batch_size: int = Field(2048, ge=1)
    """Training rows per step (paper)."""
    epochs: int = Field(1000, ge=0)
    """Most epochs (paper)."""
    patience: int = Field(20, ge=0)
    """Evaluations in a row without an improvement before it stops (MMRec)."""


class PTMRecConfig(FrameworkConfig):
    """Options of PTMRec; `train` is stage 2, whose batch_size is micro-batch x accumulation (paper: 128 x 12)."""

    encoder: str = Field("clip-b16", min_length=1)
    """A CLIP encoder's name as for `mmfast features`, or `small`: a tiny one, trained on the catalogue itself."""
    variant: Literal["full", "without-loss", "clip-prompt", "clip-frozen"] = "full"
    """without-loss: no knowledge transfer; clip-prompt: joint from scratch, without both; clip-frozen: stage 1 alone,
    by `train` as it stands."""
    modalities: tuple[Literal["image", "text"], ...] = Field(MODALITIES, min_length=1)
    """What CLIP encodes; other features of the data stay as they are."""
    texts: Literal["standard", "title"] = "standard"
    """standard: the item string of `mmfast features`; title: the title alone."""
    pictures: tuple[str, ...] = ()
    """Folders in which pictures are looked for before the data's own folders."""
    tuning: TuningConfig = TuningConfig()
    """What is trained inside CLIP."""
    first: FirstStageConfig = FirstStageConfig()
    """Stage 1."""
    micro_batch: int = Field(128, ge=1)
    """Triples whose items are encoded together; gradients of a batch's micro-batches are averaged (paper: 128)."""
    kt_weight: float = Field(1.0, ge=0)
    """Weight of the knowledge transfer (absent from the paper); the grid is 0.01, 0.1, 1, 10."""
    kt_temperature: float = Field(1.0, gt=0)
    """Temperature of both distributions (the paper has none)."""
    kt_reduction: Literal["batchmean", "mean"] = "batchmean"
    """mean divides by the micro-batch once more, as the library's default does."""
    id_vectors: Literal["tables", "propagated"] = "tables"
    """Vectors of Eq. 11 and 12: the ID tables, or the backbone's final vectors."""
    detach_user: bool = False
    """Stop the gradient of the user vector in Eq. 12 as well."""
    fresh_negatives: bool = True
    """Encode negatives anew too; False reads them from the table, at half the cost."""
    freeze_recommender: bool = False
    """Train in stage 2 what is new alone: prompts and the maps of Eq. 12."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of CLIP's frozen weights and of its activations."""
    recompute: bool = False
    """Keep only the inputs of CLIP's blocks for the gradient: less memory, a third more time."""
    encode_batch: int = Field(256, ge=1)
    """Most items that go through CLIP at once."""

    def missing(self, data: DataConfig) -> list[str]:
        """Return which of photos and CLIP's weights are not on this machine, and where they come from."""
        from mmfast.frameworks.ptmrec.catalogue import missing_parts

        return missing_parts(self, data)
