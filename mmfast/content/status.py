"""What is there of a data set: for every stage and model, the items that are done, missing or failed, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmfast.content import encode, parse, segment
from mmfast.content.answers import Row, read_answers
from mmfast.content.blocks import Blocks
from mmfast.content.bpe import clean_text
from mmfast.content.images import NOTHING_NAMED, Pictures
from mmfast.content.item_texts import item_texts
from mmfast.content.label import chosen, no_label, text_hash
from mmfast.content.label_answers import Listing
from mmfast.content.store import Store, content_key
from mmfast.data.manifest import read_manifest
from mmfast.data.prepared import read_table
from mmfast.data.readers.files import sidecar
from mmfast.data.replace_features import item_list_hash
from mmfast.errors import MmfastError

STAGES = ("features", "text objects", "masks", "descriptions", "labels")
NO_TEXT = "the item has no text"
NOT_YET = "not computed yet"
CHANGED = "its picture or text is not the one that was encoded: compute it again"
STORED_ONLY = "in the store, not in the prepared folder"
NO_ROW = "it has no row of its own; the file of the features does not tell why"
NOT_ASKED = "not asked: not yet, or, of labels, fewer than two objects to choose from"
ABSENT = ("is not there", NOTHING_NAMED)  # how reasons end that tell of no picture, not of a bad one
Reasons = dict[str, str]


@dataclass(frozen=True)
class Coverage:
    """One stage by one model: how many items are `there`, and original ids -> reason of all others.

    missing: never tried, or there is nothing to try with; failed: tried in vain. `note` tells what else is wrong.
    """

    stage: str
    by: str
    there: int
    missing: Reasons
    failed: Reasons
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


@dataclass
class Catalogue:
    """The items of a prepared folder as the stages see them: ids, texts, and pictures, None where no item has one."""

    folder: Path
    pictures: Pictures | None
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.table = read_table(self.folder, "items.parquet")
        self.ids = self.table["id"].to_list()

    def texts(self, string: str = "standard") -> list[str]:
        """Return the items' texts, all empty where the table cannot give this kind of string."""
        try:
            return item_texts(self.table, string)
        except MmfastError:
            return [""] * len(self.ids)

    def digests(self) -> list[str | None]:
        """Return the hash of every item's picture, None where there is none."""
        return self.pictures.hashes if self.pictures else [None] * len(self.ids)

    def no_picture(self, item: int) -> str:
        """Return why an item has no picture."""
        return self.pictures.problems.get(item, NOTHING_NAMED) if self.pictures else "no picture was found"


def coverage(catalogue: Catalogue, store: Store, answers: Path) -> list[Coverage]:
    """Return what is there of a data set, stage by stage; stages that nothing was computed of are left out.

    answers: the folder of the answer files. Nothing is computed, and no model is loaded; entries of the store are read
    and compared with their hash, so that a damaged one counts as absent, as it does for who needs it.

    >>> coverage(Catalogue(folder, find_pictures(table, [folder])), Store(), answers)  # doctest: +SKIP
    """
    found = [*_features(catalogue), *_unwritten(catalogue, store), *_parses(catalogue, store)]
    return [*found, *_masks(catalogue, store), *_answers(catalogue, answers)]


def _features(catalogue: Catalogue) -> Iterator[Coverage]:
    """What the prepared folder has, by its manifest and sidecars."""
    hashed = item_list_hash(catalogue.table["id"])
    for modality, about in read_manifest(catalogue.folder)["features"].items():
        told = sidecar(catalogue.folder / about["file"])
        reasons = {catalogue.ids[row]: "" for row in about["missing"]}
        reasons = {item: told.get("unreadable", {}).get(item, "") for item in reasons}
        if modality == "text" and reasons:
            texts = dict(zip(catalogue.ids, catalogue.texts(told.get("string", "standard")), strict=True))
            reasons = {item: why or (NO_ROW if texts[item].strip() else "") for item, why in reasons.items()}
        without = NO_TEXT if modality == "text" else "nothing to encode"
        missing = {item: why or without for item, why in reasons.items() if not why or why.endswith(ABSENT)}
        failed = {item: why for item, why in reasons.items() if item not in missing}
        same = told.get("items", hashed) == hashed
        if same:
            changed = dict.fromkeys(_changed(catalogue, modality, told), CHANGED)
            reasons, missing = reasons | changed, missing | changed
            failed = {item: why for item, why in failed.items() if item not in changed}
        note = "" if same else "its rows were computed for another list of items: compute it again"
        there = len(catalogue.ids) - len(reasons)
        yield Coverage("features", f"{modality} {about['encoder']}", there, missing, failed, note)


def _changed(catalogue: Catalogue, modality: str, told: Mapping[str, Any]) -> list[str]:
    """Return the items whose picture or text is another than the sidecar's; none where it does not tell."""
    if modality == "image" and catalogue.pictures is None:
        return []  # they may lie in a folder that was not named
    contents = catalogue.digests() if modality == "image" else catalogue.texts(told.get("string", "standard"))
    now, then = encode.content_marks(contents), told.get("inputs", "")
    marks = (slice(at, at + encode.MARK) for at in range(0, len(then), encode.MARK))
    return [item for item, mark in zip(catalogue.ids, marks, strict=False) if now[mark] != then[mark]]


def _unwritten(catalogue: Catalogue, store: Store) -> Iterator[Coverage]:
    """Blocks in the store of encoders whose features the folder does not have, as a stopped command leaves them."""
    written = {f"{m} {about['encoder']}" for m, about in read_manifest(catalogue.folder)["features"].items()}
    for recipe in store.recipes(encode.KIND):
        name, _, weights = recipe["model"].partition("@")
        by = f"{recipe['of']} {name}@{weights[:12]}" if weights else f"{recipe['of']} {name}"
        if by in written:
            continue
        image = recipe["of"] == "image"
        contents = catalogue.digests() if image else catalogue.texts(recipe["string"])
        known = _encoded(store, recipe, contents)
        if known:
            tried = [item in known for item in range(len(contents))]
            missing = _missing(catalogue, tried, contents, catalogue.no_picture if image else lambda item: NO_TEXT)
            failed = {catalogue.ids[n]: _no_row(store, recipe, contents[n]) for n, ok in known.items() if not ok}
            yield Coverage("features", by, sum(known.values()), missing, failed, STORED_ONLY)


def _encoded(store: Store, recipe: Mapping[str, Any], contents: Sequence[str | None]) -> dict[int, bool]:
    """Return, of the items whose contents lie in entries that the store has, whether each has a row of its own."""

    def known(inputs: Sequence[str]) -> np.ndarray | None:
        entry = store.peek(encode.KIND, _key(encode.KIND, recipe, inputs))
        return entry and entry["known"]

    filled = [one if one and one.strip() else None for one in contents]
    if not recipe["block"]:
        whole = known([one or "" for one in contents])
        return {} if whole is None else {n: bool(whole[n]) for n, one in enumerate(filled) if one}
    blocks, done = Blocks.of(filled), {}
    for start, stop in blocks.ranges(recipe["block"]):
        read = known(blocks.keys[start:stop])
        if read is not None:
            items = blocks.items(start, stop)
            done |= dict(zip(items.tolist(), read[blocks.inverse[items] - start].tolist(), strict=True))
    return done


def _no_row(store: Store, recipe: Mapping[str, Any], content: str) -> str:
    """Return why an encoder gave no row for a picture (its hash) or a text."""
    if recipe["of"] == "text":
        return encode.NO_WORD
    key = encode.picture_key(content, recipe["settings"]["most_pixels"])
    return store.failure(encode.PICTURE, key) or encode.UNDECODED


def _parses(catalogue: Catalogue, store: Store) -> Iterator[Coverage]:
    recipes = _named(store.recipes(parse.KIND))
    for by, recipe in recipes:
        texts = [clean_text(text, recipe["settings"].get("strip_tags", False)) for text in catalogue.texts()]
        blocks = Blocks.of(texts)
        known: set[str] = set()
        for block in (blocks.keys[start:stop] for start, stop in blocks.ranges(parse.BLOCK)):
            if store.peek(parse.KIND, _key(parse.KIND, recipe, block)) is not None:
                known.update(block)
        done = [text in known for text in texts]
        if any(done):
            missing = _missing(catalogue, done, texts, lambda item: NO_TEXT)
            yield Coverage("text objects", by, sum(done), missing, {})


def _masks(catalogue: Catalogue, store: Store) -> Iterator[Coverage]:
    digests = catalogue.digests()
    for by, recipe in _named(store.recipes(segment.KIND)):
        keys = [_key(segment.KIND, recipe, [digest]) if digest else "" for digest in digests]
        done = [bool(key) and store.peek(segment.KIND, key) is not None for key in keys]
        absent = {item: key for item, key in enumerate(keys) if key and not done[item]}
        reasons = {item: why for item, key in absent.items() if (why := store.failure(segment.KIND, key))}
        failed = {catalogue.ids[item]: why for item, why in reasons.items()}
        if any(done) or failed:
            tried = [ok or item in reasons for item, ok in enumerate(done)]
            missing = _missing(catalogue, tried, digests, catalogue.no_picture)
            yield Coverage("masks", by, sum(done), missing, failed)


def _answers(catalogue: Catalogue, folder: Path) -> Iterator[Coverage]:
    """Descriptions and labels by answer file, prompt and settings, as far as they are about these items' contents.

    An item may have several answers, about other objects or another length of its text: a good one counts.
    """
    for stage, task, field_name in (("descriptions", "describe", "picture"), ("labels", "label", "text")):
        paths = sorted(folder.glob(f"{task}-*.jsonl"))
        if not paths:
            continue
        if task == "describe":
            contents = [(digest,) for digest in catalogue.digests()]
        else:  # with and without HTML tags
            contents = [[text_hash(clean_text(text, strip)) for strip in (False, True)] for text in catalogue.texts()]
        current = dict(zip(catalogue.ids, contents, strict=True))
        for path in paths:
            groups: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
            known = [row for row in read_answers(path) if row["about"].get(field_name) in current.get(row["item"], ())]
            used: dict[str, set[str]] = defaultdict(set)
            for row in known:
                used[row["prompt"]] |= {row["about"].get("settings", "")} - {""}
            for row in sorted(known, key=lambda row: not _failure(stage, row)):
                # Lines of earlier versions name no settings: they are those of the others, where these have but one.
                only = "".join(used[row["prompt"]]) if len(used[row["prompt"]]) == 1 else ""
                groups[row["prompt"], row["about"].get("settings", only)][row["item"]] = row
            for (prompt, settings), rows in groups.items():
                by = f"{path.stem}, prompt {prompt[:8]}" + (f", settings {settings[:8]}" if settings else "")
                yield _answered(catalogue, stage, by, rows)


def _answered(catalogue: Catalogue, stage: str, by: str, rows: Mapping[str, Row]) -> Coverage:
    failed = {item: why for item, row in rows.items() if (why := _failure(stage, row))}
    missing = {item: NOT_ASKED for item in catalogue.ids if item not in rows}
    if stage == "descriptions":
        for item, (name, digest) in enumerate(zip(catalogue.ids, catalogue.digests(), strict=True)):
            if name in missing:
                missing[name] = NOT_YET if digest else catalogue.no_picture(item)
    return Coverage(stage, by, len(rows) - len(failed), missing, failed)


def _failure(stage: str, row: Row) -> str:
    if row["failure"] or stage == "descriptions":
        return row["failure"] + (" (asked again by the next run)" if row["again"] else "")
    about = row["about"]
    listing = Listing(row["item"], "", tuple(about["candidates"]), tuple(about["lemmas"]))
    return "" if chosen(listing, row)[1] else no_label(row)


def _missing(catalogue: Catalogue, done: Sequence[bool], contents: Sequence[str | None], why: Any) -> Reasons:
    """Return why items are not done: without contents, or not computed yet."""
    left = [(item, contents[item]) for item, ok in enumerate(done) if not ok]
    return {catalogue.ids[item]: NOT_YET if one and one.strip() else why(item) for item, one in left}


def _named(recipes: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return recipes with names that tell them apart: the model, and the settings in which recipes of it differ."""
    named = []
    for recipe in recipes:
        others = [one["settings"] for one in recipes if one["model"] == recipe["model"]]
        own = recipe["settings"]
        differ = [f"{name}={own[name]}" for name in sorted(own) if any(one.get(name) != own[name] for one in others)]
        named.append((" ".join([recipe["model"], *differ]), recipe))
    return named


def _key(kind: str, recipe: Mapping[str, Any], inputs: Sequence[str]) -> str:
    return content_key(kind=kind, model=recipe["model"], settings=recipe["settings"], inputs=inputs)
