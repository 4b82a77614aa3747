"""manifest.json of a prepared folder: what it holds, where it came from, and how to tell that it is whole."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from mmfast.data.hashing import hash_file
from mmfast.errors import MmfastError

MANIFEST = "manifest.json"
FORMAT = "mmfast-prepared"
VERSION = 1
SHOWN = 40  # characters of a wrong value
TABLES = ("interactions.parquet", "users.parquet", "items.parquet")
Number = Annotated[int, Field(ge=0, lt=2**63)]


class _Form(pydantic.BaseModel):
    """A part of a manifest; what else it holds is left as it is."""

    model_config = pydantic.ConfigDict(strict=True, extra="allow")


class _File(_Form):
    bytes: Number
    sha256: str


class _Feature(_Form):
    file: str
    shape: Annotated[list[Number], Field(min_length=2, max_length=2)]
    dtype: str
    encoder: str
    missing: list[Number]


class _Split(_Form):
    rule: str
    seed: Number | None = None
    column: str = "split"


class _Parts(_Form):
    train: Number
    valid: Number
    test: Number


class _Source(_Form):
    passed_over: dict[str, str] = {}


class _Manifest(_Form):
    """What is read from a manifest of this version, with the defaults where it may be absent."""

    name: str
    num_users: Number
    num_items: Number
    rows: _Parts
    files: dict[str, _File]
    features: dict[str, _Feature]
    split: _Split
    dropped: dict[str, Number | dict[str, Number]]
    source: _Source = _Source()
    k_core: Number = 0
    cold_users: Literal["drop", "keep"] = "keep"
    time: str | None = None
    train_pairs_held_out: dict[str, Number] = {}


def library_version() -> str:
    """Return the installed version of mmfast, "unknown" when run from a plain tree."""
    try:
        return importlib.metadata.version("mmfast")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def file_record(path: Path) -> dict[str, Any]:
    """Return {"bytes", "sha256"} of a file."""
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def write_manifest(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write manifest.json with the hashes of all other files of `folder`; return the whole manifest.

    No time and no absolute path goes in: equal sources give equal bytes.
    """
    files = {path.name: file_record(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    manifest = {"format": FORMAT, "version": VERSION, "library": library_version(), **content, "files": files}
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def is_prepared(folder: Path) -> bool:
    """True when the folder has a manifest.json."""
    return (folder / MANIFEST).is_file()


def is_ours(folder: Path) -> bool:
    """True when the folder has a readable manifest.json of this format, of whatever version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest after checking its form and the size of every file it names.

    Raises MmfastError, one sentence, for an unreadable manifest, an unknown version, or a missing or cut file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise damaged(folder, "it has no manifest.json") from None
    except (ValueError, OSError) as error:
        raise damaged(folder, f"manifest.json cannot be read ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise damaged(folder, f"manifest.json does not say format '{FORMAT}'")
    if manifest.get("version") != VERSION:
        raise MmfastError(
            f"prepared folder '{folder}' has format version {manifest.get('version')} but this mmfast "
            f"({library_version()}) reads version {VERSION}; prepare it again from its source"
        )
    _check_form(folder, manifest)
    _check_sizes(folder, manifest["files"])
    return manifest


def damaged(folder: Path, why: str) -> MmfastError:
    """Return the error that says why a prepared folder cannot be used."""
    return MmfastError(f"prepared folder '{folder}' is damaged: {why}; prepare it again from its source")


def _check_form(folder: Path, manifest: Mapping[str, Any]) -> None:
    absent = [key for key, field in _Manifest.model_fields.items() if field.is_required() and key not in manifest]
    if absent:
        raise damaged(folder, f"manifest.json lacks {', '.join(absent)}")
    try:
        _Manifest.model_validate(manifest)
    except pydantic.ValidationError as failure:
        raise damaged(folder, f"in manifest.json {_sentence(failure.errors(include_url=False)[0])}") from None
    named = [*TABLES, *(about["file"] for about in manifest["features"].values())]
    unknown = [name for name in named if name not in manifest["files"]]
    if unknown:
        raise damaged(folder, f"the files of manifest.json lack {', '.join(unknown)}")


def _sentence(mistake: Mapping[str, Any]) -> str:
    # Where several types are allowed, their names stand among the keys.
    keys = [str(key) for key in mistake["loc"] if not str(key).startswith(("constrained-", "dict["))]
    where, given, message = ".".join(keys), repr(mistake["input"]), mistake["msg"]
    if mistake["type"] == "missing":
        return f"{where} is missing"
    shown = given if len(given) <= SHOWN else f"{given[:SHOWN]}..."
    return f"{where} is {shown}; {message[0].lower()}{message[1:]}"


def _check_sizes(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            raise damaged(folder, f"'{name}' is missing")
        if path.stat().st_size != record["bytes"]:
            raise damaged(folder, f"'{name}' has {path.stat().st_size:,} bytes, not {record['bytes']:,}")
