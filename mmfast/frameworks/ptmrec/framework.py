"""PTMRec: a recommender on frozen CLIP features, then prompts inside CLIP tuned with it (Zhang, Luo, Zhang, Fang).

There is no public code; where the paper is silent this follows the decisions of its specification, each an option.
Shared-prefix and unused-output savings (`towers.py`) leave every number as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mmfast.checkpoint import write_text
from mmfast.config import RunConfig
from mmfast.embeddings import xavier
from mmfast.errors import MmfastError
from mmfast.frameworks.base import Fit, Framework
from mmfast.frameworks.ptmrec.catalogue import catalogue_of, frozen_features, keep_features, with_features
from mmfast.frameworks.ptmrec.config import PTMRecConfig
from mmfast.frameworks.ptmrec.encoder import ItemEncoder
from mmfast.frameworks.ptmrec.source import TunedFeatures, tune_features
from mmfast.frameworks.ptmrec.tuning import build_tuning
from mmfast.ops import transfer_kl
from mmfast.registry import FRAMEWORKS
from mmfast.run import LAST
from mmfast.seeds import derive_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch
    from mmfast.models.base import Recommender

FIRST = "stage1"
FROZEN = "frozen-clip"
STAGES = "stages.json"


@FRAMEWORKS.register("ptmrec")
class PTMRec(Framework):
    """Stage 1 is a run of its own below the run's folder; what the trainer's loop runs is stage 2."""

    Config = PTMRecConfig
    doors = ("features", "loss", "gradients")

    def __init__(self, inner: Recommender | Framework, config: PTMRecConfig | None = None) -> None:
        super().__init__(inner, config)
        if absent := [modality for modality in self.config.modalities if modality not in self.model.modalities]:
            raise MmfastError(
                f"ptmrec: {type(self.model).__name__} reads no features {', '.join(absent)}; it reads "
                f"{', '.join(self.model.modalities) or 'none'}: choose a multimodal backbone such as freedom"
            )
        tune_features(self.model, self.config.modalities)
        self.tuning = nn.ModuleDict()
        self.maps = nn.ModuleDict()
        self.stages: dict[str, Any] = {}
        self.encoder: ItemEncoder | None = None

    @classmethod
    def dataset(cls, dataset: Dataset, config: RunConfig, section: PTMRecConfig, folder: Path | None) -> Dataset:
        """Return the data set with frozen CLIP features in the place of its own (stage 1, spec step 1)."""
        if len(config.framework) > 1:
            raise MmfastError(
                "ptmrec cannot be combined with another framework: it owns the features, the steps and the stages; "
                "tune first, then train on what `mmfast features tuned RUN --out FOLDER` writes"
            )
        # What a run has been trained on goes with it: other machines encode to other last bits.
        for place in (folder, folder.parent) if folder else ():
            if (place / FROZEN).is_dir():
                return with_features(dataset, section, place / FROZEN)
        catalogue = catalogue_of(dataset, config.data, section)
        return with_features(dataset, section, frozen_features(catalogue, section, config.device))

    @property
    def tuned(self) -> bool:
        """Whether CLIP is trained, as it is in every variant but clip-frozen."""
        return self.config.variant != "clip-frozen"

    def source(self, modality: str) -> TunedFeatures:
        """Return the backbone's features of a modality."""
        return self.model.sources[modality]

    def prepare(self, fit: Fit) -> None:
        """Run stage 1, or open it, load its best model, and put prompts into CLIP; evaluate once before stage 2."""
        if not (fit.folder.parent / FROZEN).is_dir():
            keep_features(fit.dataset, self.config, fit.folder / FROZEN)
        if not self.tuned:
            return
        if self.config.variant != "clip-prompt":
            self._first_stage(fit)
        self.encoder = catalogue_of(fit.dataset, fit.config.data, self.config).load(self.config, fit.device)
        for modality, inputs in self.encoder.inputs.items():
            if missing := int((~inputs.known).sum()):
                fit.say(f"ptmrec: {missing:,} items have no usable {modality}; their row is the mean row")
        self._add_parameters(derive_generator(fit.config.seed, "ptmrec"))
        self.to(fit.device)
        self._start(fit)

    def _first_stage(self, fit: Fit) -> None:
        section = self.config.model_copy(update={"variant": "clip-frozen"})
        train = fit.config.train.model_copy(update=self.config.first.model_dump())
        first = fit.train(fit.config.model_copy(update={"framework": (section,), "train": train}), FIRST, fit.test)
        self.model.load_state_dict(first.model.state_dict())
        self.stages["first"] = {key: first.metrics[key] for key in ("valid", "test") if key in first.metrics}

    def _add_parameters(self, generator: torch.Generator) -> None:
        """Add prompts (or their alternatives) and the maps of Eq. 12, Xavier normal with a bias of zero."""
        if self.config.freeze_recommender:
            self.model.requires_grad_(False)
        self.tuning = build_tuning(self.encoder.clip, self.config.tuning, generator)
        for name in [name for name in self.tuning if name not in self.config.modalities]:
            del self.tuning[name]
        if not self.transfers:
            return
        with torch.no_grad():
            dim = self._id_vectors()[0].shape[1]
        for modality in self.config.modalities:
            layer = nn.Linear(self.source(modality).feature_dim, dim)
            xavier(layer.weight.data, "xavier_normal", generator)
            nn.init.zeros_(layer.bias)
            self.maps[modality] = layer

    def _start(self, fit: Fit) -> None:
        """Fill the tables and record how good the model is before the first step of stage 2, once."""
        if not (fit.folder / LAST).is_file():  # which holds tables of its own
            self.on_epoch_end()
        path = fit.folder / STAGES
        if path.is_file():
            self.stages = json.loads(path.read_text(encoding="utf-8"))
            return
        self.stages["start"] = {"valid": fit.validate()}
        write_text(path, json.dumps(self.stages, indent=1) + "\n")
        before = {name: stage["valid"][fit.config.train.monitor] for name, stage in self.stages.items()}
        fit.say("ptmrec: stage 2; valid " + ", ".join(f"{name} {value:.4f}" for name, value in before.items()))

    @property
    def transfers(self) -> bool:
        """Whether the knowledge-transfer loss is part of the variant."""
        return self.config.variant == "full" and self.config.kt_weight > 0

    def on_epoch_end(self) -> None:
        """Encode all items by the present prompts: the table of the next epoch, and of the evaluation (step 7)."""
        if self.tuned:
            for modality in self.config.modalities:
                self.source(modality).table.copy_(self.encoder.table(modality, self.tuning))

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """Take one optimiser step by the mean gradient of the batch's micro-batches (steps 5 and 6)."""
        if not self.tuned:
            return super().step(batch, optimizer)
        optimizer.zero_grad(set_to_none=True)
        try:
            totals = self._accumulate(batch)
        except torch.OutOfMemoryError:
            raise MmfastError(
                f"ptmrec: the device has too little memory for micro-batches of {self.config.micro_batch}; lower "
                "framework.micro_batch (train.batch_size stays; the transfer's softmax is then over fewer items), or "
                "set framework.recompute=true or framework.precision=bfloat16"
            ) from None
        optimizer.step()
        self.model.after_step()
        return totals

    def _accumulate(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Add up the gradients of the micro-batches, each divided by their number, and return the mean terms."""
        parts = list(micro_batches(batch, self.config.micro_batch))
        totals: dict[str, torch.Tensor] = {}
        for part in parts:
            terms = self.loss(part)
            (sum(terms.values()) / len(parts)).backward()
            self._set_live(None)
            for name, term in terms.items():
                totals[name] = totals.get(name, 0) + term.detach() / len(parts)
        return totals

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the backbone's terms with the batch's rows live, and `kt`, the transfer loss (Eq. 13), weighted.

        The rows stay live until the gradient is taken: `step` ends that.
        """
        if not self.tuned:
            return super().loss(batch)
        rows = batch.unique_items[0] if self.config.fresh_negatives else torch.unique(batch.pos_items)
        self._set_live(rows)
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            terms = super().loss(batch)
        if self.transfers and batch.size > 1:
            terms["kt"] = self.config.kt_weight * self.transfer(batch)
        return terms

    def transfer(self, batch: Batch) -> torch.Tensor:
        """Return the knowledge transfer of a micro-batch, summed over its modalities (Eq. 11-13), a scalar."""
        users, items = self._id_vectors()
        content = [
            self.maps[modality](self.source(modality).clip_rows(batch.pos_items))
            for modality in self.config.modalities
            if self._known(modality, batch.pos_items).any()
        ]
        if not content:
            return users.new_zeros(())
        return transfer_kl(
            users[batch.users],
            items[batch.pos_items],
            content,
            self.config.kt_temperature,
            detach_user=self.config.detach_user,
            reduction=self.config.kt_reduction,
        )

    def _id_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model.id_embeddings() if self.config.id_vectors == "tables" else self.model.embed()

    def _known(self, modality: str, items: torch.Tensor) -> np.ndarray:
        return self.encoder.inputs[modality].known[items.cpu().numpy()]

    def _set_live(self, items: torch.Tensor | None) -> None:
        """Let CLIP encode `items`, sorted and unique, anew; those without content keep their row of the table."""
        for modality in self.config.modalities:
            rows = None
            ids = items
            if items is not None:
                ids = items[torch.from_numpy(self._known(modality, items)).to(items.device)]
                if len(ids):
                    rows = self.encoder.rows(modality, self.tuning, ids.cpu().numpy())
            self.source(modality).set_live(ids, rows)

    def chosen(self, folder: Path, valid: Mapping[str, float], monitor: str) -> tuple[Path | None, dict[str, Any]]:
        """Return stage 1's folder when it is better on validation than stage 2's best, and both stages' values."""
        if not self.tuned:
            return None, {}
        stages = {**self.stages, "second": {"valid": dict(valid)}}
        first = stages.get("first")
        better = first is not None and first["valid"][monitor] > valid[monitor]
        return folder / FIRST if better else None, {"stages": stages, "stage": "first" if better else "second"}


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the parts of a batch, `size` triples each, the last perhaps fewer."""
    for start in range(0, batch.size, size):
        part = slice(start, start + size)
        negatives = None if batch.neg_items is None else batch.neg_items[part]
        yield replace(
            batch,
            users=batch.users[part],
            pos_items=batch.pos_items[part],
            neg_items=negatives,
            configured_size=size,
        )
