"""From a data set to what CLIP makes of its items: contents, the frozen model, and the features of stage 1."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmfast.content.encode_clip import check_weights, clip_identity, load_clip
from mmfast.content.images import Pictures, find_pictures
from mmfast.content.item_texts import item_texts
from mmfast.data.cache import cache_root
from mmfast.data.hashing import hash_json
from mmfast.data.load import prepared_folder
from mmfast.data.locate import DEMO, locate
from mmfast.data.storage import new_folder, save_npy
from mmfast.device import resolve_device
from mmfast.errors import MmfastError
from mmfast.frameworks.ptmrec.encoder import ItemEncoder
from mmfast.frameworks.ptmrec.inputs import FORMAT, image_inputs, text_inputs
from mmfast.frameworks.ptmrec.small import small_clip
from mmfast.frameworks.ptmrec.tuning import untuned

if TYPE_CHECKING:
    from mmfast.config import DataConfig
    from mmfast.data.dataset import Dataset
    from mmfast.frameworks.ptmrec.config import PTMRecConfig

FROZEN = "frozen-clip"  # of a run's folder
INSTEAD = "With the file on this machine: framework.encoder=clip:MODEL:FILE; without it: framework.encoder=small"
PHOTOS = (
    "Fetch the items' photos (the table of items has their addresses: `imUrl` of Amazon's meta files) into a folder, "
    "files named by item id, and give framework.pictures=[FOLDER]; or put them beside the data"
)


@dataclass(frozen=True)
class Catalogue:
    """Pictures and texts of all items, in the order of their ids; None where a modality is not asked for."""

    pictures: Pictures | None
    texts: list[str] | None

    def encoder_name(self, name: str) -> str:
        """Return the name of a CLIP model; `small` is trained on these contents when it is first asked for."""
        if name != "small":
            return name
        if self.pictures is None or self.texts is None:
            raise MmfastError("ptmrec: encoder=small learns from pictures with their texts; give both modalities")
        return f"clip:{small_clip(self.pictures, self.texts)}"

    def load(self, config: PTMRecConfig, device: torch.device) -> ItemEncoder:
        """Return CLIP, frozen on `device`, with the inputs of these items."""
        clip, transform, tokenizer = load_clip(self.encoder_name(config.encoder), INSTEAD)
        inputs: dict[str, Any] = {}
        if self.pictures is not None:
            inputs["image"] = image_inputs(self.pictures, transform)
        if self.texts is not None:
            inputs["text"] = text_inputs(self.texts, tokenizer)
        clip = clip.to(getattr(torch, config.precision))
        return ItemEncoder(clip, inputs, device, config.tuning.after_sot, not config.recompute, config.encode_batch)

    def key(self, config: PTMRecConfig) -> str:
        """Return the hash of all that determines the features of stage 1."""
        pictures = None if self.pictures is None else self.pictures.hashes
        model = clip_identity(self.encoder_name(config.encoder))
        return hash_json([FORMAT, "frozen", model, pictures, self.texts, config.precision, config.encode_batch])


def missing_parts(config: PTMRecConfig, data: DataConfig) -> list[str]:
    """Return what a run needs that is not on this machine, a sentence each; of photos only whether there is a place."""
    found = [f"framework.pictures: there is no folder '{path}'" for path in config.pictures if not Path(path).is_dir()]
    if "image" in config.modalities and not config.pictures and data.name != DEMO:  # which is made when first used
        try:
            locate(data.name, data.root)
        except MmfastError:
            found.append(f"framework.pictures: there are no photos. {PHOTOS}")
    if config.encoder != "small":
        try:
            check_weights(config.encoder, INSTEAD)
        except MmfastError as error:
            found.append(f"framework.encoder: {error}")
    return found


def catalogue_of(dataset: Dataset, data: DataConfig, config: PTMRecConfig) -> Catalogue:
    """Return the contents of a data set's items.

    Raises MmfastError that says what is missing and where it comes from.
    """
    folders = list(config.pictures)
    with contextlib.suppress(MmfastError):  # data that the caller brings along need not lie anywhere
        folders += [str(folder) for folder in reversed(prepared_folder(data))]
    items = dataset.item_table()
    pictures = find_pictures(items, folders, "framework.pictures=[FOLDER]") if "image" in config.modalities else None
    texts = None
    if "text" in config.modalities:
        if config.texts == "title" and "title" not in items.columns:
            raise MmfastError("ptmrec: the items table has no column title; use framework.texts=standard")
        texts = items["title"].fill_null("").to_list() if config.texts == "title" else item_texts(items)
    return Catalogue(pictures, texts)


def frozen_features(catalogue: Catalogue, config: PTMRecConfig, device: str) -> Path:
    """Return the cache folder with frozen CLIP's features, computed once, on `device`, for the same contents."""
    folder = cache_root() / "ptmrec" / catalogue.key(config)[:32]
    if not folder.is_dir():
        encoder = catalogue.load(config, resolve_device(device))
        tuning = untuned(encoder.clip)
        with new_folder(folder, keep_existing=True) as work:
            for modality, inputs in encoder.inputs.items():
                save_npy(work / f"{modality}.npy", encoder.table(modality, tuning).cpu().numpy())
                save_npy(work / f"{modality}-missing.npy", np.flatnonzero(~inputs.known))
    return folder


def kept_features(run: Path | None) -> Path | None:
    """Return the features that a run, or one that it is a part of, was trained on; None where there are none yet."""
    places = () if run is None else (run, *list(run.parents)[:2])
    return next((place / FROZEN for place in places if (place / FROZEN).is_dir()), None)


def keep_features(features: Path, run: Path) -> None:
    """Copy a folder of features into a run's: other machines encode to other last bits."""
    with new_folder(run / FROZEN, keep_existing=True) as work:
        for path in features.iterdir():
            shutil.copy(path, work / path.name)


def with_features(dataset: Dataset, config: PTMRecConfig, folder: Path) -> Dataset:
    """Return the data set with the features in `folder` in the place of its own."""
    features, missing = dict(dataset.features), dict(dataset.missing)
    kept = [modality for modality in features if modality not in config.modalities]
    for modality in config.modalities:
        features[modality] = np.load(folder / f"{modality}.npy", mmap_mode="r")
        missing[modality] = np.load(folder / f"{modality}-missing.npy")
    hashes = {modality: dataset.feature_hashes[modality] for modality in kept}
    return replace(dataset, features=features, missing=missing, known_hashes=hashes, checked=frozenset(kept))
