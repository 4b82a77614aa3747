"""A catalogue's texts and photos as objects (stage 0), and its labels (Eq. 6): what needs files, parsers and models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from mmfast.content.images import Pictures, find_pictures, open_picture
from mmfast.content.item_texts import item_texts
from mmfast.content.label import Labels, LabelSettings, label
from mmfast.content.label_answers import Listing, listings_of
from mmfast.content.label_files import demo_targets
from mmfast.content.masks import Masks
from mmfast.content.segment import segment
from mmfast.content.store import Store, content_key
from mmfast.content.text_objects import ObjectRule, TextObjects, find_text_objects
from mmfast.data.hashing import hash_array, hash_json
from mmfast.data.prepared import read_table
from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.encode import encode_objects, shown_objects
from mmfast.frameworks.targetmr.encoders import ClipObjects, ObjectEncoder
from mmfast.frameworks.targetmr.light_pair import VERSION, LightObjects, LightPair, describe, train_light_pair
from mmfast.frameworks.targetmr.objects import ItemObjects
from mmfast.frameworks.targetmr.settings import ObjectSettings
from mmfast.seeds import derive_generator

ANSWERS = "answers"  # folder of the store that receives what language models say
ENCODER = "targetmr-encoder"
LIGHT = "light"
LIGHT_DIM, LIGHT_STEPS = 64, 800  # other numbers are another VERSION of the encoder


@dataclass(frozen=True)
class Found:
    """Stage 0 of a catalogue before encoding: any of the three is None where the catalogue has no text or no photo."""

    texts: TextObjects | None
    pictures: Pictures | None
    masks: Masks | None


@dataclass(frozen=True)
class Catalogue:
    """The items of a data set: their table (id, title, text, image, ...), and where pictures and the truth lie."""

    items: pl.DataFrame
    folder: Path
    roots: tuple[Path | str, ...] = ()
    device: str = "auto"
    show: bool = True

    @classmethod
    def of_folder(cls, folder: Path, source: Path, device: str = "auto", show: bool = True) -> Catalogue:
        """Return the catalogue of a prepared folder and the folder of its source files."""
        return cls(read_table(folder, "items.parquet"), folder, (source, folder), device, show)

    def find(self, settings: ObjectSettings, rule: ObjectRule) -> Found:
        """Return the objects of texts and photos, from the store where it has them (steps 1 and 2).

        Raises MmfastError when the items have neither, and as the parser and the segmenter do.
        """
        texts, pictures, masks = self.find_texts(settings, rule), None, None
        if self._may_have_pictures(settings):
            pictures = find_pictures(self.items, [*settings.pictures, *self.roots], "objects.pictures=[FOLDER]")
            masks = segment(
                pictures, settings.segmenter, masks=settings.masks, processes=settings.processes, show=self.show
            )
        if texts is None and masks is None:
            raise MmfastError(
                f"targetmr: the items of '{self.folder}' have neither texts nor pictures; give items.csv a column "
                "title or text, or picture files (objects.pictures=[FOLDER]), or encoded objects (objects.file=FILE)"
            )
        return Found(texts, pictures, masks)

    def find_texts(self, settings: ObjectSettings, rule: ObjectRule) -> TextObjects | None:
        """Return the objects that the texts name (Eq. 1-3), None where no item has a text."""
        strings = item_texts(self.items) if {"title", "text"} & set(self.items.columns) else []
        if not any(text.strip() for text in strings):
            return None
        return find_text_objects(strings, settings.parse, rule, ids=self.items["id"].to_list(), show=self.show)

    def _may_have_pictures(self, settings: ObjectSettings) -> bool:
        named = "image" in self.items.columns and any(self.items["image"].to_list())
        return named or bool(settings.pictures)

    def encoder(self, settings: ObjectSettings, found: Found) -> ObjectEncoder:
        """Return the encoder of the settings; `light` is trained on these objects unless the store has it."""
        kind, _, file = settings.encoder.partition(":")
        if kind != LIGHT:
            return ClipObjects(settings.encoder, self.device)
        return LightObjects(load_light(Path(file)) if file else self._own_light(settings, found))

    def encode(self, settings: ObjectSettings, found: Found) -> ItemObjects:
        """Return the vectors of all objects (Eq. 7, 11-13, 15)."""
        encoder = self.encoder(settings, found)
        return encode_objects(found.texts, found.pictures, found.masks, encoder, settings, Store(), self.show)

    def label(self, settings: LabelSettings, texts: TextObjects) -> Labels:
        """Return the target object of every item as the labeller names it (Eq. 6). Raises MmfastError as `label`."""
        truth = demo_targets(self.folder) if settings.by == "truth" else None
        return label(self.listings(texts), settings, Store().folder / ANSWERS, truth, self.show)

    def listings(self, texts: TextObjects) -> list[Listing]:
        """Return the objects of every item's text as a labeller sees them."""
        return listings_of(self.items["id"].cast(pl.String).to_list(), texts)

    def _own_light(self, settings: ObjectSettings, found: Found) -> LightPair:
        if found.texts is None or found.masks is None:
            raise MmfastError("targetmr: encoder=light learns from texts and photos; this catalogue lacks one of them")
        masks, hashes = found.masks, found.pictures.hashes
        look = {"fill": settings.fill, "crop": settings.crop, "masks": hash_json([hash_array(masks.runs)])}
        inputs = [f"{text}|{key}" for text, key in zip(found.texts.texts, hashes, strict=True)]
        key = content_key(kind=ENCODER, model=f"light-pair-{VERSION}", settings=look, inputs=inputs)
        store, pair = Store(), LightPair(LIGHT_DIM, derive_generator(0))
        kept = store.get(ENCODER, key)
        if kept is None:
            shown = [item for item in range(len(masks)) if masks.offsets[item + 1] > masks.offsets[item]]
            described = [self._described(found, item, settings) for item in shown]
            texts = [found.texts.texts[item] for item in shown]
            trained = train_light_pair(texts, described, LIGHT_DIM, LIGHT_STEPS, show=self.show)
            kept = {name: tensor.numpy() for name, tensor in trained.state_dict().items()}
            store.put(ENCODER, key, kept, {"model": "light-pair"})
        pair.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in kept.items()})
        return pair

    def _described(self, found: Found, item: int, settings: ObjectSettings) -> np.ndarray:
        photo = open_picture(found.pictures.paths[item], found.pictures.hashes[item])
        return describe([photo, *shown_objects(photo, found.masks.of(item), settings)])


def save_light(encoder: LightObjects, path: Path | str) -> None:
    """Write a trained light encoder as a safetensors file for `encoder=light:FILE`."""
    from safetensors.torch import save_file

    from mmfast.checkpoint import atomic_write

    state = {name: tensor.contiguous() for name, tensor in encoder.pair.state_dict().items()}
    atomic_write(Path(path), lambda work: save_file(state, work))


def load_light(path: Path) -> LightPair:
    """Return the towers that `save_light` wrote. Raises MmfastError for a file that is none of its."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        pair = LightPair(state["table"].shape[1], derive_generator(0))
        pair.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise MmfastError(
            f"light encoder '{path}' cannot be read ({error}); write one: mmfast targetmr objects DATA encoder=light "
            "--keep-encoder FILE"
        ) from None
    return pair
