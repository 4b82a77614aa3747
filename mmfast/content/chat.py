"""What is asked of a language model and what comes back, the same for local models and endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Stopped(Exception):
    """Raised out of a wait when the run ends; what was being asked stays unanswered and is asked by the next run."""


@dataclass(frozen=True)
class Question:
    """One question about one item: a prompt, and for models that see a picture file with its sha256."""

    item: str
    prompt: str
    image: Path | None = None
    image_hash: str | None = None


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none.

    failure: the reason, "" for an answer; again: whether the reason may pass, so that the next run asks again;
    attempts: requests made; scores: a value per candidate where the model chose among some.
    """

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    failure: str = ""
    again: bool = False
    scores: tuple[float, ...] = ()


class Talker(Protocol):
    """A model that answers: `Endpoint`, `LocalChat` or `LocalVision`.

    tag: the model and its version, as it stands in answer files; block: questions per call of `reply`, which for local
    models decides the padding and so the bits; concurrency: calls of `reply` at once; settings: what else decides the
    answers.
    """

    tag: str
    block: int
    concurrency: int
    settings: dict[str, object]

    def reply(self, questions: Sequence[Question]) -> list[Reply]:
        """Return a reply per question, in order. Raises MmfastError when asking on makes no sense."""
        ...

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of so many tokens; 0 on this machine."""
        ...

    def stop(self) -> None:
        """Make waiting calls of `reply` raise Stopped."""
        ...
