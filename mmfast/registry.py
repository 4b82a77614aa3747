"""Name -> class tables for models, frameworks and data sets; a new file in the room is found without other edits."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from mmfast.errors import MmfastError, suggest

T = TypeVar("T")


class Registry:
    """A table filled by decorators. `package` names the room whose modules register themselves when first asked."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Any] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return the decorator that enters a class or function under `name`; a name taken by another is an error."""

        def enter(entry: T) -> T:
            old = self._entries.get(name)
            if old is not None and (old.__module__, old.__qualname__) != (entry.__module__, entry.__qualname__):
                raise MmfastError(
                    f"{self.kind} '{name}' is registered twice: by {old.__module__} and by {entry.__module__}; "
                    "rename one of them"
                )
            self._entries[name] = entry
            entry.registry_name = name
            return entry

        return enter

    def get(self, name: str) -> Any:
        """Return the entry called `name`. Raises MmfastError with the known names for an unknown one."""
        self._load()
        if name not in self._entries:
            known = ", ".join(self.names()) or "none"
            raise MmfastError(f"unknown {self.kind} '{name}'.{suggest(name, self._entries)} Known: {known}")
        return self._entries[name]

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._load()
        return sorted(self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")


MODELS = Registry("model", "mmfast.models")
FRAMEWORKS = Registry("framework", "mmfast.frameworks")
DATASETS = Registry("data set", "mmfast.data")
