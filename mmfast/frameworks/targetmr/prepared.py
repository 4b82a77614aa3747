"""Stages 0 to 2 of one run, from the store where it has them, and the feature sources that they give."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmfast.config import RunConfig
from mmfast.data.load import prepared_folder
from mmfast.device import resolve_device
from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.catalogue import Catalogue, Found
from mmfast.frameworks.targetmr.objects import ItemObjects
from mmfast.frameworks.targetmr.pool import TargetFeatures, digest
from mmfast.frameworks.targetmr.settings import TargetMRConfig
from mmfast.frameworks.targetmr.stages import Selectors, Targets, choose_targets, train_selectors
from mmfast.models.features import FeatureSource, FrozenFeatures, tensor_view
from mmfast.seeds import derive_generator

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset


@dataclass(frozen=True)
class Prepared:
    """What stage 3 starts from; `found` is None where the objects came from a file, `about` is JSON for people."""

    objects: ItemObjects
    selectors: Selectors
    targets: Targets
    found: Found | None = None
    labels: torch.Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)


def catalogue_of(config: RunConfig, show: bool = True) -> Catalogue:
    """Return the catalogue of a run's data."""
    folder, source = prepared_folder(config)
    return Catalogue.of_folder(folder, source, config.device, show)


def prepare_targets(
    settings: TargetMRConfig, config: RunConfig, dataset: Dataset, show: bool | None = None
) -> Prepared:
    """Run stages 0 to 2 for a data set. Raises MmfastError where the items differ, and as each stage does."""
    show = sys.stderr.isatty() if show is None else show
    found = catalogue = None
    if settings.objects.file is None:
        catalogue = catalogue_of(config, show)
        found = catalogue.find(settings.objects, settings.object_rule)
        objects = catalogue.encode(settings.objects, found)
    else:
        objects = ItemObjects.load(settings.objects.file)
    if len(objects) != dataset.num_items:
        raise MmfastError(
            f"targetmr: there are objects of {len(objects)} items but the data set has {dataset.num_items}; "
            "make them again for these data"
        )
    labels, told = None, {}
    if settings.selectors is not None:
        selectors = Selectors.load(settings.selectors, settings)
    else:
        labels, told = labels_of(settings, objects, catalogue, found, dataset)
        selectors = train_selectors(objects, labels, settings, config.seed, resolve_device(config.device))
    targets = choose_targets(objects, selectors, settings)
    about = {**describe(objects, selectors, found), **told}
    if about["neither"]:
        first = ", ".join(dataset.item_ids.to_list()[n] for n in about["neither"][:10])
        print(
            f"targetmr: {len(about['neither'])} items have neither a text nor a photo and get mean targets (first: "
            f"{first}; all are in targetmr/stages.json)",
            file=sys.stderr,
        )
    return Prepared(objects, selectors, targets, found, labels, about)


def labels_of(
    settings: TargetMRConfig,
    objects: ItemObjects,
    catalogue: Catalogue | None,
    found: Found | None,
    dataset: Dataset,
) -> tuple[torch.Tensor | None, dict[str, Any]]:
    """Return the labels int64 [I] (None without texts) and what to tell of them.

    Objects from a file have no words to ask a model about: their labels come from a CSV file (labels.by=file).
    """
    if not bool(objects.has_text.any()):
        return None, {}
    if found is None:
        if settings.labels.by != "file":
            raise MmfastError(
                f"targetmr: labels.by={settings.labels.by} reads texts, but the objects are a file's; set "
                "labels.by=file and labels.file=CSV, or selectors=FILE"
            )
        return labels_of_file(settings.labels.file, objects, dataset.item_ids.to_list()), {
            "labels": settings.labels.file
        }
    labels = catalogue.label(settings.labels, found.texts)
    return torch.from_numpy(labels.targets.astype(np.int64)), {"labels": labels.counts(), "in_scope": labels.in_scope}


def labels_of_file(file: str, objects: ItemObjects, ids: list[str]) -> torch.Tensor:
    """Return labels int64 [I] from a CSV file with the columns item and object_index, for objects without words."""
    from mmfast.content.label_answers import Listing
    from mmfast.content.label_files import read_labels

    if not file:
        raise MmfastError("targetmr: objects.file needs labels.by=file and labels.file=CSV, or selectors=FILE")
    counts = objects.text.ptr.diff().tolist()
    listings = [Listing(name, "", ("",) * count) for name, count in zip(ids, counts, strict=True)]
    labels = torch.full((len(ids),), -1)
    place = {name: n for n, name in enumerate(ids)}
    for name, index in read_labels(file, listings).items():
        labels[place[name]] = index
    return labels


def describe(objects: ItemObjects, selectors: Selectors, found: Found | None) -> dict[str, Any]:
    """Return counts and scores of the stages as JSON values."""
    told: dict[str, Any] = {
        "items": len(objects),
        "with_text": int(objects.has_text.sum()),
        "with_photo": int(objects.has_photo.sum()),
        "neither": torch.nonzero(~objects.has_text & ~objects.has_photo).squeeze(1).tolist(),
        "text_objects": len(objects.text.words),
        "image_objects": len(objects.image.values),
        "encoder": objects.encoder,
        "held_out_accuracy": max(selectors.accuracy, default=None),
        "held_out_contrast": [selectors.loss[0], min(selectors.loss)] if selectors.loss else None,
    }
    if found is not None and found.texts is not None:
        told["found_by"] = found.texts.counts()
    if found is not None and found.masks is not None:
        told["photos"] = found.masks.counts()
    return told


def sources_of(prepared: Prepared, settings: TargetMRConfig, dataset: Dataset, seed: int) -> dict[str, FeatureSource]:
    """Return the sources behind door 1 by modality: target-aware, or frozen where a part is left out.

    Raises MmfastError for a modality that is asked for and that no item has.
    """
    has = prepared.objects.modalities()
    wanted = settings.modalities or has
    if lacking := [m for m in wanted if m not in has]:
        raise MmfastError(f"targetmr: no item has {' and '.join(lacking)}; set framework.modalities to {list(has)}")
    sources: dict[str, FeatureSource] = {}
    for modality in sorted(wanted, reverse=True):
        side = getattr(prepared.targets, modality)
        if side is not None and settings.has("TAL"):
            generator = derive_generator(seed, "targetmr", modality)
            sources[modality] = TargetFeatures(side, settings.attention, generator)
            continue
        table = whole_photos(prepared.objects, settings, dataset) if side is None else side.target.numpy()
        sources[modality] = FrozenFeatures(table)
        sources[modality].register_buffer("digest", digest(tensor_view(table)))
    return sources


def whole_photos(objects: ItemObjects, settings: TargetMRConfig, dataset: Dataset) -> np.ndarray:
    """Return the image features of the ablation w/o ITS, float32 [I, F]. Raises MmfastError where there are none."""
    if settings.whole_image == "data":
        if "image" not in dataset.features:
            raise MmfastError(
                "targetmr: whole_image=data, but the data set has no features 'image'; set whole_image=clip"
            )
        return np.array(dataset.features["image"], np.float32)
    photos = objects.photos.clone()
    photos[~objects.has_photo] = photos[objects.has_photo].mean(0)
    return photos.numpy()
