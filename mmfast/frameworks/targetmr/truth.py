"""How often the chosen targets are the recorded ones of a demo catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmfast.content.label_answers import listings_of
from mmfast.content.label_files import demo_targets, labels_from_truth
from mmfast.content.masks import Masks
from mmfast.content.text_objects import TextObjects
from mmfast.data.demo import TRUTH, decode_mask, demo_truth
from mmfast.frameworks.targetmr.catalogue import Catalogue, Found
from mmfast.frameworks.targetmr.ragged import segment_argmax
from mmfast.frameworks.targetmr.stages import Targets

OVERLAP = 0.5  # intersection over union from which a mask shows the target


def truth_scores(catalogue: Catalogue, found: Found, targets: Targets) -> dict[str, float]:
    """Return shares of items, {} for a catalogue without a recorded truth.

    text: the chosen word names the target, of the items where a choice could; in_scope: it is one of the item's
    objects, of the items that have any; image: the chosen mask overlaps the target's true one by at least half;
    image_refined: the mask most similar to the text target after refinement does; image_random: what a random mask
    reaches; image_possible: some mask does.
    """
    if not (catalogue.folder / TRUTH).is_file():
        return {}
    scores = {}
    if targets.text is not None and found.texts is not None:
        truth = true_words(catalogue, found.texts)
        known, chosen = truth >= 0, targets.text.chosen.numpy()
        scores["text"] = float((chosen == truth)[known].mean())
        counts = np.diff(found.texts.offsets)
        scores["in_scope"] = float(((chosen >= 0) & (chosen < counts))[counts > 0].mean())
    if targets.image is not None and found.masks is not None:
        hits = mask_hits(found.masks, catalogue.folder)
        refined = segment_argmax(targets.after, targets.image_ptr)
        for name, chosen in (("image", targets.image.chosen), ("image_refined", refined)):
            right = [bool(own[at]) for own, at in zip(hits, chosen.tolist(), strict=True) if at >= 0]
            scores[name] = float(np.mean(right))
        scores["image_random"] = float(np.mean([own.mean() for own in hits if len(own)]))
        scores["image_possible"] = float(np.mean([own.any() for own in hits if len(own)]))
    return scores


def true_words(catalogue: Catalogue, texts: TextObjects) -> np.ndarray:
    """Return the place of the recorded target among each item's objects, int64 [I], -1 where it is not found."""
    ids = catalogue.items["id"].to_list()
    labels, _ = labels_from_truth(listings_of(ids, texts), demo_targets(catalogue.folder), 0.0, 0.0, 0)
    return np.array([labels.get(name, -1) for name in ids], np.int64)


def mask_hits(masks: Masks, folder: Path) -> list[np.ndarray]:
    """Return for each item which of its masks overlap the target's true mask by at least half, bool [z] each."""
    truth = demo_truth(folder)
    true = {row["item"]: decode_mask(row["mask"]) for row in truth.filter(truth["is_target"]).iter_rows(named=True)}
    return [overlaps(masks.of(item), true[item]) >= OVERLAP for item in range(len(masks))]


def overlaps(masks: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the intersection over union of masks bool [z, h, w] with one bool [h, w], float [z].

    >>> overlaps(np.array([[[True, True]]]), np.array([[True, False]])).tolist()
    [0.5]
    """
    both = (masks & true).sum(axis=(1, 2))
    return both / np.maximum((masks | true).sum(axis=(1, 2)), 1)
