"""Pictures to descriptions by a vision language model, as LIRDRec makes its image features from text (specs: MLLM).

LIRDRec prints its prompt only in a figure; ours is in prompts/describe.txt. The paper names the base model; the default
is its Instruct variant, which follows a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import PIL
from pydantic import Field

from mmfast.config import Config
from mmfast.content.answers import Answers, Asked, Usage, answer_file, ask_missing, check_items, count_usage
from mmfast.content.chat import Question, Reply, Talker
from mmfast.content.endpoint import Endpoint, EndpointSettings
from mmfast.content.images import DECODER, Pictures
from mmfast.content.language_models import LocalVision, VisionSettings
from mmfast.content.progress import Meter
from mmfast.content.prompt_files import Prompt, load_prompt
from mmfast.content.store import content_key
from mmfast.data.hashing import hash_json

INSTEAD = (
    "Without it: describe through an endpoint (by=endpoint), or encode the pictures themselves (--image clip or light)"
)
REFUSAL = re.compile(
    r"\W*(i'?m sorry|i am sorry|sorry,|i apologi[sz]e|i (cannot|can'?t|am unable|'?m unable|am not able|won'?t)\b"
    r"|i'?m (unable|not able|not comfortable)|as an ai\b|unfortunately, i\b)",
    re.IGNORECASE,
)
PIECE = 24  # characters; in ordinary text nearly all pieces of this length differ
FEWEST_PIECES = 100
FEWEST_DIFFERENT = 0.6


class DescribeSettings(Config):
    """Which model describes the pictures, and what it is asked."""

    by: Literal["local", "endpoint"] = "local"
    """A model on this machine, or an OpenAI-compatible endpoint."""
    local: VisionSettings = VisionSettings()
    endpoint: EndpointSettings = EndpointSettings()
    prompt: str = "describe"
    """Prompt that comes with mmfast, or a text file."""
    short_prompt: str = "describe-short"
    """Prompt of the one further attempt after a refusal, an empty answer or one that repeats itself."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest description."""
    stop_after: int = Field(20, ge=1)
    """Give up when so many requests in a row failed for reasons that may pass."""


@dataclass(frozen=True)
class Descriptions:
    """Descriptions by item, the reason for every item without one, and what they took."""

    texts: dict[str, str]
    failures: dict[str, str]
    usage: Usage
    file: Path


def describe(
    items: Sequence[str], pictures: Pictures, settings: DescribeSettings, folder: Path, show: bool = True
) -> Descriptions:
    """Describe the picture of every item; items whose answer is already in `folder` are not asked again.

    Of items with the same picture one is asked about, and all have its answer.
    items [I]: the user's ids, in the order of `pictures`. folder: receives the answers as JSON lines. An item without
    a usable picture or description is a failure with its reason: its feature is the mean row.
    Raises MmfastError when the weights are not there, the endpoint cannot be used, or too much fails in a row.

    >>> describe(ids, find_pictures(table, [folder]), DescribeSettings(), folder / "answers")  # doctest: +SKIP
    """
    prompt, short = load_prompt(settings.prompt), load_prompt(settings.short_prompt)
    if settings.by == "endpoint":
        talker: Talker = Endpoint(settings.endpoint, settings.max_new_tokens)
    else:
        talker = LocalVision(settings.local, settings.max_new_tokens, INSTEAD)
    asked, failures = _questions(items, pictures, talker, prompt, short)
    check_items(asked)
    file = answer_file(folder, "describe", talker.tag)
    with Answers(file) as answers:
        different = _different(asked, answers)
        with Meter("describing", len(different), "pictures", show) as meter:
            ways = {"respond": with_retry(talker, short), "stop_after": settings.stop_after, "progress": meter.add}
            usage = ask_missing(answers, list(different.values()), talker, **ways)
        _share(asked, different, answers, talker.tag)
        rows = {one.question.item: answers.find(one) for one in asked}
    usage = count_usage(usage, list(rows.values()), talker)  # who paid need not be who is asked about now
    failures |= {item: row["failure"] for item, row in rows.items() if row["failure"]}
    texts = {item: row["text"] for item, row in rows.items() if not row["failure"]}
    return Descriptions(texts, failures, usage, file)


def fill_empty(texts: Sequence[str], items: Sequence[str], descriptions: Descriptions) -> tuple[list[str], list[int]]:
    """Return the texts [I] with descriptions in the place of empty ones, and the rows where that was done.

    >>> fill_empty(["A mug.", " "], ["a", "b"], descriptions)[1]  # doctest: +SKIP
    [1]
    """
    filled = [row for row, item in enumerate(items) if not texts[row].strip() and item in descriptions.texts]
    whole = list(texts)
    for row in filled:
        whole[row] = descriptions.texts[items[row]]
    return whole, filled


def with_retry(talker: Talker, short: Prompt) -> Callable[[Sequence[Question]], list[Reply]]:
    """Return a function that asks once more, with the short prompt, what got no usable description."""

    def respond(questions: Sequence[Question]) -> list[Reply]:
        replies = talker.reply(questions)
        weak = [n for n, reply in enumerate(replies) if weakness(reply)]
        second = talker.reply([replace(questions[n], prompt=short.text) for n in weak]) if weak else []
        for n, reply in zip(weak, second, strict=True):
            replies[n] = _joined(replies[n], reply)
        return replies

    return respond


def weakness(reply: Reply) -> str:
    """Return why an answer is no description: refused, empty or looping; "" for a good one and for other failures.

    >>> weakness(Reply("I'm sorry, I can't help with that.")), weakness(Reply("A red mug."))
    ('refused', '')
    """
    if reply.failure:
        return reply.failure if reply.failure.startswith("refused") else ""
    if not reply.text.strip():
        return "empty"
    if REFUSAL.match(reply.text.replace("\u2019", "'")):
        return "refused"
    return "looping" if is_looping(reply.text) else ""


def is_looping(text: str) -> bool:
    """Whether a text says the same again and again, in any language: too few of its 24-character pieces differ.

    >>> is_looping("The mug is red. " * 12)
    True
    """
    pieces = [text[n : n + PIECE] for n in range(len(text) - PIECE + 1)]
    return len(pieces) >= FEWEST_PIECES and len(set(pieces)) < FEWEST_DIFFERENT * len(pieces)


def _joined(first: Reply, second: Reply) -> Reply:
    """Return the second reply with the tokens and attempts of both; a second weakness is the item's failure."""
    both = {
        name: getattr(first, name) + getattr(second, name)
        for name in ("prompt_tokens", "completion_tokens", "attempts")
    }
    if reason := weakness(second):
        return replace(second, **both, failure=f"{weakness(first)}, with the short prompt {reason}")
    return replace(second, **both)


def _questions(
    items: Sequence[str], pictures: Pictures, talker: Talker, prompt: Prompt, short: Prompt
) -> tuple[list[Asked], dict[str, str]]:
    """Return the questions about items with a picture, and the reason of those without one."""
    asked, failures = [], {}
    settings = {**talker.settings, "short_prompt": short.text, "pillow": PIL.__version__, "decoder": DECODER}
    digest = hash_json(settings)
    for row, (item, path, picture) in enumerate(zip(items, pictures.paths, pictures.hashes, strict=True)):
        if path is None or picture is None:
            failures[item] = f"picture: {pictures.problems.get(row, 'there is none')}"
            continue
        key = content_key(kind="describe", model=talker.tag, settings=settings, inputs=[prompt.text, picture])
        about = {"picture": picture, "settings": digest}
        asked.append(Asked(Question(item, prompt.text, path, picture), key, prompt.digest, about))
    return asked, failures


def _different(asked: Sequence[Asked], answers: Answers) -> dict[str, Asked]:
    """Return one question for every key, which holds the picture: a good answer first, then one that is settled."""

    def rank(one: Asked) -> int:
        return answers.settled(one) and (2 if not answers.find(one)["failure"] else 1)

    different: dict[str, Asked] = {}
    for one in asked:
        known = different.get(one.key)
        if known is None or rank(one) > rank(known):
            different[one.key] = one  # in the place of the first, so that blocks stay the same
    return different


def _share(asked: Sequence[Asked], different: Mapping[str, Asked], answers: Answers, tag: str) -> None:
    """Give every item the answer to its picture; what that took stands in the line of the item asked about alone."""
    shared = []
    for one in asked:
        if answers.settled(one):
            continue
        own, row = answers.find(one), answers.find(different[one.key])
        told = Reply(row["text"], failure=row["failure"], again=row["again"], attempts=0)
        if own is None or (own["failure"], own["again"]) != (told.failure, told.again):
            shared.append((one, told))
    if shared:
        answers.add([one for one, _ in shared], [told for _, told in shared], tag)
