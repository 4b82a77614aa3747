"""What a run knows of one item, gathered for the page of `mmfast targetmr explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mmfast.content.images import open_picture
from mmfast.content.masks import object_pictures
from mmfast.content.parse import POS, ParseConfig, parse_texts
from mmfast.content.text_objects import TextObjects
from mmfast.frameworks.targetmr.catalogue import Found
from mmfast.frameworks.targetmr.explain import Case, MaskShown, Word
from mmfast.frameworks.targetmr.prepared import Prepared
from mmfast.frameworks.targetmr.settings import TargetMRConfig


@dataclass(frozen=True)
class Item:
    """An item by place, original id and title."""

    place: int
    name: str
    title: str


def case_of(item: Item, prepared: Prepared, settings: TargetMRConfig, reached: Mapping[str, Sequence[str]]) -> Case:
    """Return the case study of an item; words and pictures are left out where the objects came from a file."""
    found = prepared.found or Found(None, None, None)
    targets, place = prepared.targets, item.place
    shares = text_shares(prepared, place)
    names = [str(n) for n in range(len(shares))] if found.texts is None else found.texts.words(place)
    photo, masks = None, []
    if found.masks is not None and found.masks.offsets[place + 1] > found.masks.offsets[place]:
        photo = open_picture(found.pictures.paths[place], found.pictures.hashes[place])
        rows = slice(*targets.image_ptr[place : place + 2].tolist())
        cosines = zip(targets.before[rows].tolist(), targets.after[rows].tolist(), strict=True)
        pictures = object_pictures(photo, found.masks.of(place), "mean")
        masks = [MaskShown(picture, *cosine) for picture, cosine in zip(pictures, cosines, strict=True)]
    return Case(
        item=item.name,
        title=item.title,
        words=[] if found.texts is None else words_of(found.texts, place, settings.objects.parse),
        objects=dict(zip(names, shares, strict=True)),
        text_target=-1 if targets.text is None else int(targets.text.chosen[place]),
        photo=photo,
        masks=masks,
        image_target=-1 if targets.image is None else int(targets.image.chosen[place]),
        reached=reached,
    )


@torch.no_grad()
def text_shares(prepared: Prepared, place: int) -> list[float]:
    """Return s_txt (Eq. 9) of an item's objects, in the order of its text."""
    selector, vectors = prepared.selectors.text, prepared.objects.text
    count = int(vectors.ptr[place + 1] - vectors.ptr[place])
    if selector is None or not count:
        return [1.0 / count] * count
    return torch.softmax(selector.score(vectors, torch.tensor([place])).values, 0).tolist()


def words_of(texts: TextObjects, place: int, parse: ParseConfig) -> list[Word]:
    """Return the words of an item's text with part of speech, relation, and which of them are objects."""
    parses = parse_texts([texts.texts[place]], parse)
    starts = {start for start, _ in texts.spans(place)}
    text, words = parses.texts[0], []
    rows = zip(parses.start.tolist(), parses.end.tolist(), parses.pos.tolist(), parses.relation.tolist(), strict=True)
    for start, end, pos, relation in rows:
        words.append(Word(text[start:end], POS[pos], parses.relations[relation], start in starts))
    return words
