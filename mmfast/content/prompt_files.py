"""Prompts as text files: those that come with mmfast, or a user's own, with {named} slots that are checked."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mmfast.data.hashing import hash_json
from mmfast.errors import MmfastError

SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Prompt:
    """A prompt with slots such as {text}; `digest` is the sha256 that stands for it in answer files."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """The sha256 of the text with its slots still open."""
        return hash_json(self.text)

    def fill(self, **values: str) -> str:
        """Return the text with every slot replaced once; braces inside the values stay as they are."""
        return SLOT.sub(lambda found: values[found[1]], self.text)


def load_prompt(name: str, slots: Collection[str] = ()) -> Prompt:
    """Return the prompt called `name`: one that comes with mmfast (describe, describe-short, label) or a text file.

    slots: the names that must stand in it as {name}, and no others may.

    >>> load_prompt("label", ["text", "candidates"]).fill(text="A mug.", candidates="mug")[:9]
    'A listing'

    Raises MmfastError for a file that is missing, empty or not UTF-8, and for missing or unknown slots.
    """
    text = _read(name).strip()
    found = set(SLOT.findall(text))
    missing, unknown = sorted(set(slots) - found), sorted(found - set(slots))
    if not text or missing or unknown:
        wanted = " and ".join(f"{{{slot}}}" for slot in slots) or "no {slots}"
        got = ", ".join(f"{{{slot}}}" for slot in sorted(found)) or ("no {slots}" if text else "an empty file")
        raise MmfastError(f"prompt '{name}': got {got}, want {wanted}, each written so; edit the file")
    return Prompt(name, text)


def _read(name: str) -> str:
    shipped = resources.files("mmfast.content") / "prompts"
    known = sorted(entry.name.removesuffix(".txt") for entry in shipped.iterdir() if entry.name.endswith(".txt"))
    if name in known:
        return (shipped / f"{name}.txt").read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MmfastError(f"prompt '{name}' is no file and none of {', '.join(known)}; give one of these") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MmfastError(f"prompt '{name}' cannot be read as UTF-8 text: {error}") from error
