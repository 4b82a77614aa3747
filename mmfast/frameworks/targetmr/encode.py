"""Objects of texts and photos to vectors (Eq. 7, 11-13, 15), in blocks that the store keeps as they are finished."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mmfast.content.images import MOST_PIXELS, Pictures, open_picture
from mmfast.content.masks import Masks, object_pictures
from mmfast.content.progress import Meter
from mmfast.content.store import Store, content_key
from mmfast.content.text_objects import TextObjects
from mmfast.frameworks.targetmr.encoders import ObjectEncoder
from mmfast.frameworks.targetmr.objects import ItemObjects
from mmfast.frameworks.targetmr.ragged import Ragged
from mmfast.frameworks.targetmr.select import TextVectors
from mmfast.frameworks.targetmr.settings import ObjectSettings

TEXT, IMAGE = "targetmr-text", "targetmr-image"
TEXT_BLOCK, PHOTO_BLOCK, CALL = 1024, 32, 64
WHOLE = -1  # place, among the words, of an object that is the whole text


def encode_objects(
    objects: TextObjects | None,
    pictures: Pictures | None,
    masks: Masks | None,
    encoder: ObjectEncoder,
    settings: ObjectSettings,
    store: Store,
    show: bool = False,
) -> ItemObjects:
    """Return the vectors of all objects; `objects`, or `pictures` and `masks`, may be None where a catalogue has none.

    Equal texts and contexts are encoded once. What a killed call had finished is not computed again.
    """
    num_items = len(objects) if objects is not None else len(masks)
    text, has_text = _text_vectors(objects, num_items, encoder, settings.context, store, show)
    image, photos, has_photo = _photo_vectors(pictures, masks, num_items, encoder, settings, store, show)
    return ItemObjects(text, image, photos, has_text, has_photo, encoder.identity)


def _text_vectors(
    objects: TextObjects | None, num_items: int, encoder: ObjectEncoder, k: int, store: Store, show: bool
) -> tuple[TextVectors, torch.Tensor]:
    positions = torch.from_numpy(np.ascontiguousarray(encoder.positions, np.float32))
    if objects is None:
        none, ptr = torch.zeros(0, encoder.dim), torch.zeros(num_items + 1, dtype=torch.int64)
        texts, nowhere = torch.zeros(num_items, encoder.dim), torch.zeros(0, dtype=torch.int64)
        return TextVectors(texts, none, none, nowhere, positions, ptr), torch.zeros(num_items, dtype=torch.bool)
    contexts = [context for item in range(num_items) for context in objects.contexts(item, k)]
    unique = sorted({*objects.texts, *contexts} - {""}, key=lambda text: (len(text), text))
    table, place = _encoded_texts(unique, encoder, store, show), {text: n for n, text in enumerate(unique)}
    place[""] = len(unique)
    table = np.concatenate([table, np.zeros((1, encoder.dim), np.float32)])
    texts = table[[place[text] for text in objects.texts]]
    words, position = np.zeros((len(contexts), encoder.dim), np.float32), np.ones(len(contexts), np.int64)
    for item in range(num_items):
        rows = slice(*objects.offsets[item : item + 2].tolist())
        words[rows], position[rows] = encoder.words(objects.texts[item], objects.spans(item))
    # An item without any noun is one object, its whole text, whose vector is twice the text's.
    whole = objects.word == WHOLE
    owner = np.repeat(np.arange(num_items), np.diff(objects.offsets))
    words[whole] = texts[owner[whole]]
    arrays = (texts, words, table[[place[text] for text in contexts]], position)
    tensors = [torch.from_numpy(array) for array in arrays]
    vectors = TextVectors(*tensors, positions=positions, ptr=torch.from_numpy(objects.offsets.astype(np.int64)))
    return vectors, torch.tensor([bool(text) for text in objects.texts])


def _encoded_texts(unique: Sequence[str], encoder: ObjectEncoder, store: Store, show: bool) -> np.ndarray:
    rows = [np.zeros((0, encoder.dim), np.float32)]
    with Meter("encoding texts and contexts", len(unique), "texts", show) as meter:
        for start in range(0, len(unique), TEXT_BLOCK):
            block = unique[start : start + TEXT_BLOCK]

            def compute(block: Sequence[str] = block) -> dict[str, np.ndarray]:
                return {"rows": _in_calls(encoder.texts, block)}

            entry, cached = _kept(store, TEXT, encoder, {"call": CALL}, block, compute)
            rows.append(entry["rows"])
            meter.add(len(block), cached)
    return np.concatenate(rows)


def _photo_vectors(
    pictures: Pictures | None,
    masks: Masks | None,
    num_items: int,
    encoder: ObjectEncoder,
    settings: ObjectSettings,
    store: Store,
    show: bool,
) -> tuple[Ragged, torch.Tensor, torch.Tensor]:
    photos, has_photo = np.zeros((num_items, encoder.dim), np.float32), np.zeros(num_items, bool)
    if masks is None or pictures is None:
        image = Ragged(torch.zeros(0, encoder.dim), torch.zeros(num_items + 1, dtype=torch.int64))
        return image, torch.from_numpy(photos), torch.from_numpy(has_photo)
    values = np.zeros((int(masks.offsets[-1]), encoder.dim), np.float32)
    shown = [item for item in range(num_items) if masks.offsets[item + 1] > masks.offsets[item]]
    look = {"fill": settings.fill, "crop": settings.crop, "most_pixels": MOST_PIXELS, "call": CALL}
    with Meter("encoding objects in photos", len(shown), "photos", show) as meter:
        for start in range(0, len(shown), PHOTO_BLOCK):
            block = shown[start : start + PHOTO_BLOCK]

            def compute(block: Sequence[int] = block) -> dict[str, np.ndarray]:
                return _encoded_photos(block, pictures, masks, encoder, settings)

            inputs = [f"{pictures.hashes[item]}:{_mask_hash(masks, item)}" for item in block]
            entry, cached = _kept(store, IMAGE, encoder, look, inputs, compute)
            photos[block], at = entry["photos"], 0
            for item in block:
                first, last = masks.offsets[item : item + 2].tolist()
                values[first:last] = entry["masks"][at : at + last - first]
                at += last - first
            meter.add(len(block), cached)
    has_photo[shown] = True
    ptr = torch.from_numpy(masks.offsets.astype(np.int64))
    return Ragged(torch.from_numpy(values), ptr), torch.from_numpy(photos), torch.from_numpy(has_photo)


def _encoded_photos(
    block: Sequence[int], pictures: Pictures, masks: Masks, encoder: ObjectEncoder, settings: ObjectSettings
) -> dict[str, np.ndarray]:
    whole, parts = [], []
    for item in block:
        photo = open_picture(pictures.paths[item], pictures.hashes[item])
        whole.append(photo)
        parts += shown_objects(photo, masks.of(item), settings)
    return {"photos": _in_calls(encoder.pictures, whole), "masks": _in_calls(encoder.pictures, parts)}


def shown_objects(photo: object, masks: np.ndarray, settings: ObjectSettings) -> list:
    """Return one picture per mask bool [z, h, w] as the settings show objects to the encoder (Eq. 4)."""
    return object_pictures(photo, masks, settings.fill, settings.crop)


def _mask_hash(masks: Masks, item: int) -> str:
    own = slice(*masks.offsets[item : item + 2].tolist())
    bounds = masks.run_offsets[own.start : own.stop + 1]
    digest = hashlib.sha256(np.ascontiguousarray(np.diff(bounds)).data)
    digest.update(np.ascontiguousarray(masks.runs[bounds[0] : bounds[-1]]).data)
    return digest.hexdigest()


def _in_calls(function: Callable[[Sequence], np.ndarray], inputs: Sequence) -> np.ndarray:
    return np.concatenate([function(inputs[start : start + CALL]) for start in range(0, len(inputs), CALL)])


def _kept(
    store: Store,
    kind: str,
    encoder: ObjectEncoder,
    settings: dict,
    inputs: Sequence[str],
    compute: Callable[[], dict[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], bool]:
    """Return an entry of the store and whether it was there; else compute and keep it."""
    key = content_key(kind=kind, model=encoder.identity, settings=settings, inputs=list(inputs))
    entry = store.get(kind, key)
    if entry is not None:
        return entry, True
    entry = compute()
    store.put(kind, key, entry, {"model": encoder.identity.partition(":")[0], "inputs": len(inputs)})
    return entry, False
