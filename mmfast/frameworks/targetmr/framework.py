"""TargetMR (Tang et al., WWW 2026): target-aware item features and an extended interaction graph for any backbone.

The paper is silent or inconsistent in places; the readings taken, each with its alternative, are in docs/targetmr.md.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmfast.checkpoint import write_text
from mmfast.config import RunConfig
from mmfast.errors import MmfastError
from mmfast.frameworks.base import Fit, Framework, Loss
from mmfast.frameworks.targetmr.extend import common_features, extend
from mmfast.frameworks.targetmr.pool import TargetFeatures
from mmfast.frameworks.targetmr.prepared import Prepared, prepare_targets, sources_of
from mmfast.frameworks.targetmr.settings import TargetMRConfig
from mmfast.graph import Graph, user_item_graph
from mmfast.models.features import FeatureSource, TrainableFeatures
from mmfast.registry import FRAMEWORKS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch
    from mmfast.models.base import Recommender

FOLDER = "targetmr"  # of a run, with what the first stages found
OWN = ("text", "image")


@FRAMEWORKS.register("targetmr")
class TargetMR(Framework):
    """The backbone is built on [target || pooled auxiliaries] and meets the extended graph before every epoch."""

    Config = TargetMRConfig
    doors = ("features", "graph")

    def __init__(self, inner: Recommender | Framework, config: TargetMRConfig | None = None) -> None:
        super().__init__(inner, config)
        extension = getattr(self.model, "extension", None)
        if extension is None:
            raise MmfastError("TargetMR: the backbone was not built by TargetMR.backbone; train by a config")
        self.extension: Extension = extension
        self.edges: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def backbone(
        cls,
        settings: TargetMRConfig,
        config: RunConfig,
        dataset: Dataset,
        build: Callable[[Dataset], Recommender],
        folder: Path | None,
    ) -> Recommender:
        """Return the backbone built on target-aware features, its feature doors filled (Eq. 20-21).

        Stages 0 to 2 run first, from the store where it has them. Raises MmfastError for a backbone that reads no
        features and as the stages do.
        """
        prepared = prepare_targets(settings, config, dataset)
        sources = sources_of(prepared, settings, dataset, config.seed)
        with torch.no_grad():
            tables = {m: source.all().numpy() for m, source in sources.items()}
        others = {m: table for m, table in dataset.features.items() if m not in OWN}

        def on_features(tables: dict[str, np.ndarray]) -> Recommender:
            return build(dataset.with_features({**others, **tables}))

        model = on_features(tables)
        if not model.modalities:
            raise MmfastError(
                f"targetmr: {config.model.name} reads no item features, so there is nothing to replace; choose a "
                "multimodal backbone, such as mentor, freedom, mgcn, lgmrec or bm3"
            )
        for modality, source in sources.items():
            if settings.train_features and any(True for _ in model.sources[modality].parameters()):
                source = trained(source)
            model.set_item_features(modality, source)
        # Not a submodule: it holds no parameters, and the model knows nothing of it.
        object.__setattr__(model, "extension", Extension(prepared, settings, dataset, sources, on_features))
        model.register_load_state_dict_post_hook(_after_loading)
        return model

    def prepare(self, fit: Fit) -> None:
        """Write what the first stages found into the run folder; inner frameworks first."""
        super().prepare(fit)
        write_findings(self.extension.prepared, fit)

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Extend the graph by the attention as it stands (Eq. 22, step 11), then run the hooks inside."""
        last = self.config.freeze_graph_after_epoch
        if self.extension.sources and (last is None or epoch < last):
            self.extension.remember(epoch)
            self.edges = self.extension.apply(self.model)
        super().on_epoch_start(epoch, generator)

    def backward(self, batch: Batch, loss: Loss) -> dict[str, torch.Tensor]:
        """Take the gradient of the loss (Eq. 23), by default of the batch as it is."""
        if self.edges is not None and (self.config.extended_positives or self.config.reject_extended_negatives):
            batch = self._changed(batch)
        return super().backward(batch, loss)

    def _changed(self, batch: Batch) -> Batch:
        """Return the batch with an extended positive per user added, and rows with an extended negative left out."""
        users, items = self.edges
        width = batch.num_items
        user, pos, neg = batch.users, batch.pos_items, batch.neg_items
        if self.config.extended_positives:
            ptr = torch.from_numpy(np.searchsorted(users, np.arange(batch.num_users + 1))).to(user.device)
            counts = ptr.diff()[user]
            place = ptr[:-1][user] + (torch.rand(len(user), device=user.device) * counts).long()
            more = torch.from_numpy(items).to(user.device)[place].long()
            user, pos = torch.cat([user, user]), torch.cat([pos, more])
            neg = None if neg is None else torch.cat([neg, neg])
        if self.config.reject_extended_negatives and neg is not None:
            keys = torch.from_numpy(users.astype(np.int64) * width + items).to(user.device)
            keep = ~torch.isin(user * width + neg, keys)
            if bool(keep.any()):  # a step of no rows has no loss
                user, pos, neg = user[keep], pos[keep], neg[keep]
        return replace(batch, users=user, pos_items=pos, neg_items=neg)


class Extension:
    """Eq. 22 of one run: which pairs a backbone's messages pass over, by the attention that its sources keep."""

    def __init__(
        self,
        prepared: Prepared,
        settings: TargetMRConfig,
        dataset: Dataset,
        sources: dict[str, FeatureSource],
        build: Callable[[dict[str, np.ndarray]], Recommender],
    ) -> None:
        self.prepared, self.settings, self.build = prepared, settings, build
        self.pairs = (dataset.train.users, dataset.train.items)
        self.sizes = (dataset.num_users, dataset.num_items)
        self.names = tuple(m for m, source in sources.items() if isinstance(source, TargetFeatures))
        self.digests = {m: source.digest.clone() for m, source in sources.items()}
        self.sources = [sources[m] for m in self.names]
        self.told = ""

    def remember(self, epoch: int) -> None:
        """Let the sources keep their attention for the graph of this epoch."""
        for source in self.sources:
            source.remember(epoch)

    def apply(self, model: Recommender) -> tuple[np.ndarray, np.ndarray]:
        """Give the model the graph of Eq. 22 by the kept attention (door 2); return its pairs."""
        settings = self.settings
        common = common_features([source.graph_features() for source in self.sources])
        pairs = extend(common, *self.pairs, settings.eta, settings.topk, settings.max_edges, self.tell)
        device = common.device
        if settings.refresh_item_graphs:
            self.refresh(model)
        model.set_interaction_graph(user_item_graph(*pairs, *self.sizes))
        model.to(device)
        return pairs

    def refresh(self, model: Recommender) -> None:
        """Give the model the graphs that it would be built with on the features by the kept attention."""
        with torch.no_grad():
            tables = {
                m: (source.graph_features() if isinstance(source, TargetFeatures) else source.all()).cpu().numpy()
                for m, source in model.sources.items()
                if m in OWN
            }
        for name, graph in self.build(tables).named_modules():
            if isinstance(graph, Graph):
                model.set_submodule(name, graph)

    def tell(self, text: str) -> None:
        """Say on standard error how large the graph becomes: once, as it hardly changes."""
        if not self.told:
            print(f"targetmr: {text}", file=sys.stderr, flush=True)
        self.told = text

    def after_loading(self, model: Recommender) -> None:
        """Follow a loaded checkpoint: check that its objects are these, and rebuild the graph it was trained with."""
        for modality, own in self.digests.items():
            read = model.sources[modality].digest
            if not torch.equal(read.cpu(), own):
                read.copy_(own)
                raise MmfastError(
                    f"targetmr: the checkpoint was trained on other {modality} objects than the first stages give now; "
                    "restore the photos, texts, labels and settings of that run, or train again"
                )
        if self.sources and int(self.sources[0].graph_epoch) >= 0:
            self.apply(model)


def trained(source: FeatureSource) -> FeatureSource:
    """Return the source with every item's row free to be trained."""
    if isinstance(source, TargetFeatures):
        source.add_delta()
        return source
    free = TrainableFeatures(source.all().numpy())
    free.register_buffer("digest", source.digest)
    return free


def _after_loading(model: Recommender, _keys: object) -> None:
    model.extension.after_loading(model)


def write_findings(prepared: Prepared, fit: Fit) -> None:
    """Write targets.csv (item, object and mask chosen) and stages.json (counts and scores) into the run folder."""
    folder = fit.folder / FOLDER
    folder.mkdir(exist_ok=True)
    targets, ids = prepared.targets, fit.dataset.item_ids.to_list()
    text, image = (None if side is None else side.chosen.tolist() for side in (targets.text, targets.image))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["item", "object_index", "word", "mask"])
    for item, name in enumerate(ids):
        at = -1 if text is None else text[item]
        word = prepared.found.texts.words(item)[at] if prepared.found and prepared.found.texts and at >= 0 else ""
        writer.writerow([name, at, word, -1 if image is None else image[item]])
    write_text(folder / "targets.csv", lines.getvalue())
    write_text(folder / "stages.json", json.dumps(prepared.about, indent=1) + "\n")
