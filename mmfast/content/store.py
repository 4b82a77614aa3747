"""The store of computed content: arrays under the hash of all that determines them, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mmfast.data.cache import cache_root
from mmfast.data.hashing import hash_json
from mmfast.data.storage import replace_file
from mmfast.errors import MmfastError, disk_advice

FORMAT = 2  # raised whenever what is kept under a key would come out otherwise
MAGIC = b"mmfstor1"
HEAD = len(MAGIC) + 32 + 8  # magic, sha256 of the body, bytes of the body
NOTE = "note"
RECIPE = "recipe"  # in a note: model and settings of the entry's key, and what else finds its inputs again
KIND = re.compile(r"[a-z][a-z0-9-]*")
KEY = re.compile(r"[0-9a-f]{64}")
ABANDONED_SECONDS = 24 * 3600.0  # a part file this old belongs to a process that was killed


class Entry(NamedTuple):
    """One entry as `Store.entries` lists it: its key, its note and its size."""

    key: str
    note: dict[str, Any]
    num_bytes: int


def content_key(*, kind: str, model: str, settings: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Return the key, 64 hexadecimal digits, of what `model` with `settings` makes of `inputs`.

    `model` names the weights by their hash, `inputs` are hashes or texts in the order in which they are used. The
    order of the settings does not matter. Raises MmfastError for settings that are no JSON values.

    >>> len(content_key(kind="segment", model="vit-h:0a1b", settings={"points": 32}, inputs=["9f86d0"]))
    64
    """
    try:
        return hash_json([FORMAT, kind, model, dict(settings), list(inputs)])
    except (TypeError, ValueError) as error:
        raise MmfastError(f"content_key: kind '{kind}': settings and inputs must be JSON values ({error})") from None


class Store:
    """Named arrays by kind and key, one file each, in `folder` (default: `content` in the cache folder).

    A file is written beside its place, synced and renamed: after a kill at any moment an entry is whole or absent, and
    several processes may write the same key at once. What is read is compared with its sha256.

    >>> store = Store("content")  # doctest: +SKIP
    >>> store.put("encode", key, {"rows": rows}, note={"model": "clip"})  # doctest: +SKIP
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder is not None else cache_root() / "content"

    def get(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays of an entry, None when it is absent; a damaged entry is a warning and counts as absent."""
        found = self._read(kind, key)
        if isinstance(found, str):
            path = self._path(kind, key)
            warnings.warn(f"the entry '{path}' is damaged and computed anew: {found}", stacklevel=2)
            return None
        return found

    def peek(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """Return what `get` returns, without a word of a damaged entry: for who only looks and computes nothing."""
        found = self._read(kind, key)
        return None if isinstance(found, str) else found

    def put(self, kind: str, key: str, arrays: Mapping[str, np.ndarray], note: Mapping[str, Any] | None = None) -> None:
        """Keep arrays under a key, replacing what is there and its failure; `note` is small JSON for `status`.

        Raises MmfastError when the disk is full or the folder cannot be written.
        """
        solid = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # One string: of several, safetensors would choose the order anew in every process.
        body = safetensors.numpy.save(solid, {NOTE: json.dumps(dict(note or {}), sort_keys=True)})
        path = self._path(kind, key)
        self._write(path, _head(body) + body)
        self._failure_path(kind, key).unlink(missing_ok=True)

    def fail(self, kind: str, key: str, reason: str, note: Mapping[str, Any] | None = None) -> None:
        """Record why there is no entry under a key; a later `put` takes the record away. `note` as for `put`."""
        record = {"reason": reason, NOTE: dict(note or {})}
        self._write(self._failure_path(kind, key), json.dumps(record, ensure_ascii=False, sort_keys=True).encode())

    def failure(self, kind: str, key: str) -> str | None:
        """Return the recorded reason why there is no entry, None when nothing failed or the record is damaged."""
        try:
            return str(json.loads(self._failure_path(kind, key).read_bytes())["reason"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def kinds(self) -> list[str]:
        """Return the kinds that have entries or failures, sorted."""
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path.name for path in folders if path.is_dir() and KIND.fullmatch(path.name))

    def entries(self, kind: str) -> Iterator[Entry]:
        """Yield every entry of a kind by key; notes are read, arrays are not."""
        for path in sorted(self._folder(kind).glob("*/*.entry")):
            note = _note(path)
            if note is not None:
                yield Entry(path.stem, note, path.stat().st_size)

    def failures(self, kind: str) -> dict[str, str]:
        """Return key -> reason of all recorded failures of a kind."""
        keys = sorted(path.stem for path in self._folder(kind).glob("*/*.failed"))
        return {key: reason for key in keys if (reason := self.failure(kind, key)) is not None}

    def recipes(self, kind: str) -> list[dict[str, Any]]:
        """Return the different notes that tell how entries and failures of a kind came about (`recipe`), sorted.

        With the inputs of a data set, a recipe's model and settings give the keys that it has there.
        """
        notes = [entry.note for entry in self.entries(kind)]
        for path in self._folder(kind).glob("*/*.failed"):
            try:
                notes.append(json.loads(path.read_bytes())[NOTE])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a damaged record: what it was of is tried again
        found = {hash_json(note[RECIPE]): note[RECIPE] for note in notes if RECIPE in note}
        return [found[key] for key in sorted(found)]

    def sweep(self) -> int:
        """Remove what killed processes left half written more than a day ago; return how many files that were."""
        removed = 0
        for path in self.folder.glob("*/*/.*.part"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # its writer has just finished, or another process sweeps too
        return removed

    def _read(self, kind: str, key: str) -> dict[str, np.ndarray] | str | None:
        """Return the arrays of an entry, None when it is absent, or what is wrong with its bytes."""
        path = self._path(kind, key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(path, error) from None
        body = memoryview(content)[HEAD:]
        if _head(body) != content[:HEAD]:
            return "its bytes are not those that were written"
        try:
            return safetensors.numpy.load(bytes(body))
        except SafetensorError as error:
            return str(error)

    def _folder(self, kind: str) -> Path:
        if not KIND.fullmatch(kind):
            raise MmfastError(f"store: got the kind '{kind}'; want small letters, digits and -, such as 'segment'")
        return self.folder / kind

    def _path(self, kind: str, key: str, suffix: str = "entry") -> Path:
        if not KEY.fullmatch(key):
            raise MmfastError(f"store: got the key '{key}'; want 64 hexadecimal digits, as content_key returns them")
        return self._folder(kind) / key[:2] / f"{key}.{suffix}"

    def _failure_path(self, kind: str, key: str) -> Path:
        return self._path(kind, key, "failed")

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
        except OSError as error:
            raise MmfastError(
                f"store: cannot write '{path}': {error.strerror or error}; {disk_advice(error, 'MMFAST_CACHE')}"
            ) from error

    def _unreadable(self, path: Path, error: OSError) -> MmfastError:
        return MmfastError(
            f"store: cannot read '{path}': {error.strerror or error}; check its rights, or set MMFAST_CACHE to "
            "another folder"
        )


def _head(body: bytes | memoryview) -> bytes:
    return MAGIC + hashlib.sha256(body).digest() + len(body).to_bytes(8, "little")


def _note(path: Path) -> dict[str, Any] | None:
    """Return the note of an entry, None when its head cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD + 8)
            layout = json.loads(file.read(int.from_bytes(head[HEAD:], "little")))
        return json.loads(layout["__metadata__"][NOTE])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return None
