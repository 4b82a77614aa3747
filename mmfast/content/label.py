"""Which object an item sells: a label per item from a language model, a table made by hand, or a demo's truth.

TargetMR, Eq. 6: labels train the text target selector and are not used after that. The paper's prompt stands in a
figure that cannot be read; ours is in prompts/label.txt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from mmfast.config import Config
from mmfast.content.answers import Answers, Asked, Respond, Row, Usage, answer_file, ask_missing
from mmfast.content.chat import Question, Reply, Talker
from mmfast.content.endpoint import Endpoint, EndpointSettings
from mmfast.content.label_answers import Listing, examples, match
from mmfast.content.label_files import labels_from_truth, read_labels
from mmfast.content.language_models import LocalChat, LocalSettings
from mmfast.content.progress import Meter
from mmfast.content.prompt_files import load_prompt
from mmfast.content.store import content_key
from mmfast.data.hashing import hash_json
from mmfast.errors import MmfastError

INSTEAD = "Without it: label through an endpoint (by=endpoint), or give a CSV file with item,object_index (by=file)"
NO_LABEL = -1


class LabelSettings(Config):
    """Who labels, and how a language model is asked."""

    by: Literal["local", "endpoint", "file", "truth"] = "local"
    """A model on this machine, an OpenAI-compatible endpoint, a CSV file, or the truth of a demo catalogue."""
    local: LocalSettings = LocalSettings()
    endpoint: EndpointSettings = EndpointSettings()
    choose: Literal["answer", "sum", "mean"] = "answer"
    """answer: the model writes, and may leave the candidates; sum, mean: the candidate of the greatest log-probability,
    summed or averaged over its tokens and the end (local models only)."""
    prompt: str = "label"
    """Prompt that comes with mmfast, or a text file with {text} and {candidates}."""
    max_new_tokens: int = Field(24, ge=1)
    """Longest answer."""
    text_limit: int = Field(6000, ge=100)
    """Characters of an item's text that are given to the model; about 1,500 tokens of English."""
    file: str = ""
    """CSV file with the columns item and object_index, for by=file."""
    noise: float = Field(0.0, ge=0, le=1)
    """by=truth: share of items labelled with another object."""
    failure_rate: float = Field(0.0, ge=0, le=1)
    """by=truth: share of items without a usable answer."""
    seed: int = Field(999, ge=0)
    """by=truth: seed of noise and failures."""
    least_labelled: float = Field(0.01, ge=0, le=1)
    """Stop when a smaller share of the items with a choice has a label: nothing could be learned from them."""
    stop_after: int = Field(20, ge=1)
    """Give up when so many requests in a row failed for reasons that may pass."""


@dataclass(frozen=True)
class Labels:
    """Targets of all items, and how they came about.

    targets: int32 [I], the index among the item's candidates, -1 without a label. how: item -> exact or lemma (matched
    answers), scored, file, truth. failures: item -> why it has no label; items with less than two candidates are
    `unasked`, need no label and are not among the failures. in_scope: share of the items asked about whose answer was
    exactly a candidate, None where no model was asked. cut: texts of which the model saw only the first `text_limit`
    characters.
    """

    targets: np.ndarray
    how: dict[str, str]
    failures: dict[str, str]
    unasked: int
    cut: int = 0
    in_scope: float | None = None
    usage: Usage | None = None
    file: Path | None = None

    def counts(self) -> dict[str, int]:
        """Return how many labels came about in which way, and how many items failed or were not asked."""
        return {**Counter(self.how.values()), "failed": len(self.failures), "unasked": self.unasked}


def label(
    listings: Sequence[Listing],
    settings: LabelSettings,
    folder: Path,
    truth: Mapping[str, str] | None = None,
    show: bool = True,
) -> Labels:
    """Label every item that names at least two objects; answers already in `folder` are not asked for again.

    listings [I]: item, text and candidates in the order of the items. folder: receives the answers as JSON lines.
    truth: item -> noun (`demo_targets`), for by=truth.
    Raises MmfastError when weights, endpoint or file cannot be used, and when less than `least_labelled` of the items
    with a choice got a label.

    >>> labels = label(listings, LabelSettings(by="file", file="labels.csv"), folder)  # doctest: +SKIP
    """
    asked = [listing for listing in listings if len(listing.candidates) > 1]
    if settings.by == "file":
        found = _from_file(listings, asked, settings.file)
    elif settings.by == "truth":
        if truth is None:
            raise MmfastError("label: by=truth works for the demo catalogue only; choose local, endpoint or file")
        found = _Found(*labels_from_truth(asked, truth, settings.noise, settings.failure_rate, settings.seed))
    else:
        found = _ask(asked, settings, folder, show)
    if asked and len(found.indices) < settings.least_labelled * len(asked):
        raise _too_few(found, len(asked))
    targets = np.array([found.indices.get(one.item, NO_LABEL) for one in listings], np.int32)
    how = found.how or dict.fromkeys(found.indices, settings.by)
    cut = sum(len(one.text) > settings.text_limit for one in asked) if found.usage else 0
    counts = (len(listings) - len(asked), cut)
    return Labels(targets, how, found.failures, *counts, found.in_scope, found.usage, found.file)


@dataclass(frozen=True)
class _Found:
    """The labels of the items with a choice, before they are put into the order of all items."""

    indices: dict[str, int]
    failures: dict[str, str]
    how: dict[str, str] | None = None
    in_scope: float | None = None
    usage: Usage | None = None
    file: Path | None = None


def _from_file(listings: Sequence[Listing], asked: Sequence[Listing], file: str) -> _Found:
    if not file:
        raise MmfastError("label: by=file reads the labels from a CSV file with item,object_index; give file=FILE")
    given = read_labels(file, listings)  # of all items: a label where there is no choice is useless, but no mistake
    indices = {one.item: given[one.item] for one in asked if one.item in given}
    return _Found(indices, {one.item: "not in the file" for one in asked if one.item not in given})


def _ask(listings: Sequence[Listing], settings: LabelSettings, folder: Path, show: bool) -> _Found:
    talker = _talker(settings)
    asked = _questions(listings, settings, talker)
    scorer = None if settings.choose == "answer" else _scorer(listings, settings, talker)
    file = answer_file(folder, "label", talker.tag)
    with Answers(file) as answers, Meter("labelling", len(asked), "items", show) as meter:
        usage = ask_missing(answers, asked, talker, scorer, stop_after=settings.stop_after, progress=meter.add)
        rows = [answers.find(one) for one in asked]
    indices, failures, how = {}, {}, {}
    for one, row in zip(listings, rows, strict=True):
        index, way = chosen(one, row)
        if index == NO_LABEL:
            failures[one.item] = no_label(row)
        else:
            indices[one.item], how[one.item] = index, way
    in_scope = sum(way != "lemma" for way in how.values()) / len(asked) if asked else None
    return _Found(indices, failures, how, in_scope, usage, file)


def chosen(listing: Listing, row: Row) -> tuple[int, str]:
    """Return the index and the way of an answer file's line, (-1, "") when it names no candidate.

    >>> chosen(Listing("a", "", ("mug", "lamp")), {"failure": "", "scores": [], "text": "Lamp."})
    (1, 'exact')
    """
    if row["failure"]:
        return NO_LABEL, ""
    if row["scores"]:
        return int(np.argmax(row["scores"])), "scored"
    return match(row["text"], listing)


def no_label(row: Row) -> str:
    """Return why a line gives no label."""
    return row["failure"] or f"no candidate: {examples([row['text']])}"


def text_hash(text: str) -> str:
    """Return what stands in an answer's line for the item's cleaned text."""
    return hash_json(text)


def _talker(settings: LabelSettings) -> Endpoint | LocalChat:
    if settings.by == "local":
        return LocalChat(settings.local, settings.max_new_tokens, INSTEAD)
    if settings.choose != "answer":
        raise MmfastError(
            f"label: choose={settings.choose} needs the probabilities of given words, which endpoints do not tell; "
            "set choose=answer, or by=local"
        )
    return Endpoint(settings.endpoint, settings.max_new_tokens)


def _questions(listings: Sequence[Listing], settings: LabelSettings, talker: Talker) -> list[Asked]:
    prompt = load_prompt(settings.prompt, ("text", "candidates"))
    asked = []
    choice = {**talker.settings, "choose": settings.choose}
    choice |= {} if settings.choose == "answer" else {"scored": "candidate and any end token"}
    digest = hash_json(choice)
    for one in listings:
        text = prompt.fill(text=one.text[: settings.text_limit].strip(), candidates="\n".join(one.candidates))
        inputs = [text, *one.candidates]
        key = content_key(kind="label", model=talker.tag, settings=choice, inputs=inputs)
        about = {"text": text_hash(one.text), "candidates": list(one.candidates), "lemmas": list(one.lemmas)}
        about["settings"] = digest
        asked.append(Asked(Question(one.item, text), key, prompt.digest, about))
    return asked


def _scorer(listings: Sequence[Listing], settings: LabelSettings, talker: LocalChat) -> Respond:
    """Return how a block is answered by scoring the candidates of its items."""
    candidates = {one.item: one.candidates for one in listings}

    def respond(questions: Sequence[Question]) -> list[Reply]:
        mean = settings.choose == "mean"
        return [talker.choose(question.prompt, candidates[question.item], mean) for question in questions]

    return respond


def _too_few(found: _Found, asked: int) -> MmfastError:
    return MmfastError(
        f"only {len(found.indices)} of {asked} items with a choice got a usable label (reasons: "
        f"{examples(list(found.failures.values()))}); nothing can be learned from so few: try another prompt or model, "
        "choose=sum, or labels by hand (by=file)"
    )
