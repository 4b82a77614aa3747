"""Name -> class tables for models, frameworks and data sets; a new file in the room is found without other edits."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mmfast.errors import MmfastError, suggest

T = TypeVar("T")
REGISTERED = re.compile(r'^@[A-Z]+\.register\("([^"]+)"\)', re.MULTILINE)


class Registry:
    """A table filled by decorators. `package` names the room whose files are imported when one of their names is asked.

    Which names a file registers is read from its text: importing every model, and torch with it, takes seconds.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return the decorator that enters a class or function under `name`; a name taken by another is an error."""

        def enter(entry: T) -> T:
            old = self._entries.get(name)
            home = old.__module__ if old else self._homes.get(name, entry.__module__)
            if home != entry.__module__ or (old and old.__qualname__ != entry.__qualname__):
                raise MmfastError(
                    f"{self.kind} '{name}' is registered twice: by {home} and by {entry.__module__}; rename one of them"
                )
            self._entries[name] = entry
            entry.registry_name = name
            return entry

        return enter

    def get(self, name: str) -> Any:
        """Return the entry called `name`. Raises MmfastError with the known names for an unknown one."""
        if name not in self._entries and name in self._homes:
            importlib.import_module(self._homes[name])
        if name not in self._entries:
            names = self.names()
            raise MmfastError(
                f"unknown {self.kind} '{name}'.{suggest(name, names)} Known: {', '.join(names) or 'none'}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Return every registered name, sorted; nothing is imported for it."""
        return sorted({*self._entries, *self._homes})

    @cached_property
    def _homes(self) -> dict[str, str]:
        """Module that registers each name, for the files of the package."""
        root, homes = Path(__file__).parents[1], {}
        for path in sorted((root / self.package.replace(".", "/")).rglob("*.py")):
            place = path.relative_to(root).with_suffix("").as_posix().removesuffix("/__init__")
            names = REGISTERED.findall(path.read_text(encoding="utf-8"))
            homes |= dict.fromkeys(names, place.replace("/", "."))
        return homes


MODELS = Registry("model", "mmfast.models")
FRAMEWORKS = Registry("framework", "mmfast.frameworks")
DATASETS = Registry("data set", "mmfast.data")
