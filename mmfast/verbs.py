"""Modules named after the one function they hold, callable like it: mmfast.evaluate(...), mmfast.recommend(...)."""

from __future__ import annotations

from types import ModuleType
from typing import Any


class VerbModule(ModuleType):
    """A module that passes calls to the function of its own name.

    Importing mmfast/evaluate.py anywhere makes `mmfast.evaluate` the module; it can be called all the same.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function that has the module's name."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)
