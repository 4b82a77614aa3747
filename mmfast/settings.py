"""Settings as they are written: a YAML file and `key=value` arguments, to one nested mapping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmfast.errors import MmfastError, suggest

NAMED = ("model", "data")  # sections of a run that a bare word names: model=freedom


def read_settings(
    path: str | Path | Mapping[str, Any] | None, overrides: Iterable[str], named: Sequence[str] = NAMED
) -> dict[str, Any]:
    """Return the nested mapping of a file (or mapping) and overrides of `key=value`, before it is checked.

    named: the sections that a bare word names.
    """
    raw = _read_yaml(Path(path)) if isinstance(path, (str, Path)) else dict(path or {})
    for override in sorted(overrides, key=lambda text: text.partition("=")[0].count(".")):
        _apply(raw, override, named)
    return raw


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = suggest(path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else [])
        raise MmfastError(f"config file '{path}' does not exist.{near} Give a YAML file, or key=value arguments alone")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MmfastError(f"config file '{path}' is not YAML: {error}") from error
    except OSError as error:
        raise MmfastError(f"config file '{path}' cannot be read: {error.strerror}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise MmfastError(f"config file '{path}' holds a {type(raw).__name__}; wanted keys and values")
    return raw


def _apply(raw: dict[str, Any], override: str, named: Sequence[str]) -> None:
    """Enter one `a.b=value` into the nested mapping; naming another of the `named` sections replaces it."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise MmfastError(f"argument '{override}' is not key=value; write for example train.epochs=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MmfastError(f"argument '{override}': the value is not YAML ({error})") from error
    *path, last = key.split(".")
    if not path and last in named and isinstance(value, str):
        old = raw.get(last)
        if isinstance(old, Mapping) and old.get("name") == value:
            return
        raw[last] = {"name": value}
        return
    for depth, step in enumerate(path):
        inner = raw.setdefault(step, {})
        if isinstance(inner, str) and step in ("model", "data", "framework"):
            inner = raw[step] = {"name": inner}
        if not isinstance(inner, dict):
            at = ".".join(path[: depth + 1])
            raise MmfastError(f"argument '{override}': '{at}' holds {inner!r}, which has no keys inside")
        raw[step] = dict(inner)
        raw = raw[step]
    raw[last] = value
