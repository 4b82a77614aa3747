"""PTMRec: a recommender on frozen CLIP features, then prompts inside CLIP tuned with it (Zhang, Luo, Zhang, Fang).

There is no public code; where the paper is silent this follows the decisions of its specification, each an option.
Shared-prefix and unused-output savings (`towers.py`) leave every number as it is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
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
from mmfast.frameworks.base import Fit, Framework, Loss
from mmfast.frameworks.ptmrec.catalogue import (
    catalogue_of,
    frozen_features,
    keep_features,
    kept_features,
    with_features,
)
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
STAGES = "stages.json"


@FRAMEWORKS.register("ptmrec")
class PTMRec(Framework):
    """Stage 1 is a run of its own below the run's folder; what the trainer's loop runs is stage 2."""

    Config = PTMRecConfig
    doors = ("features",)

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
    def backbone(
        cls,
        settings: PTMRecConfig,
        config: RunConfig,
        dataset: Dataset,
        build: Callable[[Dataset], Recommender],
        folder: Path | None,
    ) -> Recommender:
        """Return the backbone built on frozen CLIP features in the place of the data's own (stage 1, spec step 1)."""
        features = kept_features(folder)
        if features is None:
            features = frozen_features(catalogue_of(dataset, config.data, settings), settings, config.device)
        return build(with_features(dataset, settings, features))

    @property
    def seen(self) -> tuple[str, ...]:
        """The modalities of CLIP that are not hidden from every pass."""
        return tuple(modality for modality in self.config.modalities if modality not in self.model.masked)

    @property
    def tuned(self) -> bool:
        """Whether CLIP is trained, as it is in every variant but clip-frozen."""
        return self.config.variant != "clip-frozen" and bool(self.seen)

    def source(self, modality: str) -> TunedFeatures:
        """Return the backbone's features of a modality."""
        return self.model.sources[modality]

    def prepare(self, fit: Fit) -> None:
        """Run stage 1, or open it, load its best model, and put prompts into CLIP; evaluate once before stage 2."""
        super().prepare(fit)
        kept = kept_features(fit.folder)
        if kept is not None and not self.tuned:
            return
        catalogue = catalogue_of(fit.dataset, fit.config.data, self.config)
        if kept is None:
            keep_features(frozen_features(catalogue, self.config, fit.config.device), fit.folder)
        if not self.tuned:
            return
        if self.config.variant != "clip-prompt":
            self._first_stage(fit)
        self.encoder = catalogue.load(self.config, fit.device)
        for modality, inputs in self.encoder.inputs.items():
            if missing := int((~inputs.known).sum()):
                fit.say(f"ptmrec: {missing:,} items have no usable {modality}; their row is the mean row")
        self._add_parameters(derive_generator(fit.config.seed, "ptmrec"))
        self.to(fit.device)
        self._start(fit)

    def _first_stage(self, fit: Fit) -> None:
        """Train plainly on frozen CLIP: of the frameworks around this one only what is hidden takes part."""
        sections = fit.config.framework
        place = sections.index(self.config)
        frozen = self.config.model_copy(update={"variant": "clip-frozen"})
        hidden = (section for section in sections[place + 1 :] if section.name == "masked")
        train = fit.config.train.model_copy(update=self.config.first.model_dump())
        changes = {"framework": (*sections[:place], frozen, *hidden), "train": train}
        first = fit.train(fit.config.model_copy(update=changes), FIRST, fit.test)
        self.model.load_state_dict(first.model.state_dict())
        self.stages["first"] = {key: first.metrics[key] for key in ("valid", "test") if key in first.metrics}

    def _add_parameters(self, generator: torch.Generator) -> None:
        """Add prompts (or their alternatives) and the maps of Eq. 12, Xavier normal with a bias of zero."""
        if self.config.freeze_recommender:
            self.model.requires_grad_(False)
        self.tuning = build_tuning(self.encoder.clip, self.config.tuning, generator)
        for name in [name for name in self.tuning if name not in self.seen]:
            del self.tuning[name]
        if not self.transfers:
            return
        with torch.no_grad():
            dim = self._id_vectors()[0].shape[1]
        for modality in self.seen:
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
        return self.config.variant == "full" and self.config.kt_weight > 0 and self.tuned

    def on_epoch_end(self) -> None:
        """Encode all items by the present prompts: the table of the next epoch, and of the evaluation (step 7)."""
        super().on_epoch_end()
        if self.tuned:
            for modality in self.seen:
                self.source(modality).table.copy_(self.encoder.table(modality, self.tuning))

    def backward(self, batch: Batch, loss: Loss) -> dict[str, torch.Tensor]:
        """Take the mean gradient of the batch's micro-batches (steps 5 and 6), each with its items encoded anew."""
        if not self.tuned:
            return super().backward(batch, loss)
        parts = list(micro_batches(batch, self.config.micro_batch))

        def share(part: Batch) -> dict[str, torch.Tensor]:
            return {name: term / len(parts) for name, term in loss(part).items()}

        totals: dict[str, torch.Tensor] = {}
        try:
            for part in parts:
                with self.live(part):
                    terms = super().backward(part, share)
                totals = {name: totals.get(name, 0) + term for name, term in terms.items()}
        except torch.OutOfMemoryError:
            raise MmfastError(
                f"ptmrec: the device has too little memory for micro-batches of {self.config.micro_batch}; lower "
                "framework.micro_batch (train.batch_size stays; the transfer's softmax is then over fewer items), or "
                "set framework.recompute=true or framework.precision=bfloat16"
            ) from None
        return totals

    @contextlib.contextmanager
    def live(self, batch: Batch) -> Iterator[None]:
        """Let CLIP encode the items of a micro-batch anew for the passes inside, until their gradient is taken.

        An item without content, and every item of no triple of the batch, keeps its row of the table.
        """
        items = batch.unique_items[0] if self.config.fresh_negatives else torch.unique(batch.pos_items)
        for modality in self.seen:
            ids = items[torch.from_numpy(self._known(modality, items)).to(items.device)]
            rows = self.encoder.rows(modality, self.tuning, ids.cpu().numpy()) if len(ids) else None
            self.source(modality).set_live(ids, rows)
        try:
            yield
        finally:
            for modality in self.seen:
                self.source(modality).set_live(None, None)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the backbone's terms and `kt`, the transfer loss (Eq. 13), weighted; in training inside `live`."""
        terms = super().loss(batch)
        if self.transfers and batch.size > 1:
            with torch.autocast(batch.users.device.type, enabled=False):
                terms = {**terms, "kt": self.config.kt_weight * self.transfer(batch)}
        return terms

    def modality_parameters(self, modality: str) -> list[tuple[nn.Parameter, tuple[slice, ...]]]:
        """Return the backbone's parameters of one modality and what is trained in that tower of CLIP."""
        own = self.tuning[modality].parameters() if modality in self.tuning else ()
        return [*super().modality_parameters(modality), *((parameter, ()) for parameter in own)]

    def transfer(self, batch: Batch) -> torch.Tensor:
        """Return the knowledge transfer of a micro-batch, summed over its modalities (Eq. 11-13), a scalar."""
        users, items = self._id_vectors()
        content = [
            self.maps[modality](self.source(modality).clip_rows(batch.pos_items))
            for modality in self.seen
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
