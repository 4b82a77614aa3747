"""The cache of prepared folders, one per content of the sources and settings; safe for several processes at once."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfast.data.build import Settings, build
from mmfast.data.hashing import hash_json
from mmfast.data.manifest import VERSION, file_record, is_prepared, read_manifest
from mmfast.data.notes import notes
from mmfast.data.readers import read_sources
from mmfast.data.readers.files import Sources
from mmfast.errors import MmfastError


def cache_root() -> Path:
    """Return the cache folder: MMFAST_CACHE, or ~/.cache/mmfast."""
    return Path(os.environ.get("MMFAST_CACHE") or Path.home() / ".cache" / "mmfast").expanduser()


def source_record(sources: Sources) -> dict[str, Any]:
    """Return format, size and sha256 of every source file, and what was found beside them that is no features.

    Contents are hashed each time, never assumed.
    """
    names = {path: _relative(path, sources.folder) for path in sources.paths()}
    record = {"format": sources.format, "files": {name: file_record(path) for path, name in names.items()}}
    listed = {role: hash_json(sorted(p.name for p in folder.iterdir())) for role, folder in sources.listed.items()}
    more = {"listings": listed, "passed_over": sources.passed_over}
    return {**record, **{what: content for what, content in more.items() if content}}


def prepared_in_cache(
    sources: Sources,
    settings: Settings,
    name: str,
    stage: Callable[[str], None] = lambda text: None,
) -> Path:
    """Return the prepared folder of `sources` in the cache, preparing it when it is not there yet.

    Of two processes that prepare the same data at once, the first to finish is kept and both use it. After preparing,
    `stage` is also told what was left out and which items lack a feature, one line each (`mmfast.data.notes`).
    Warns where a feature is the source's here, or none, and was replaced in a preparation of it under other settings or
    before its files changed.
    """
    record = source_record(sources)
    features = {modality: _relative(path, sources.folder) for modality, path in sources.features.items()}
    key = hash_json([VERSION, record, features, asdict(settings), name])
    folder = cache_root() / "data" / f"{name}-{key[:20]}"
    if not is_prepared(folder):
        raw = read_sources(sources, settings.split_column)
        build(raw, settings, folder, name=name, source=record, keep_existing=True, stage=stage)
        for note in notes(read_manifest(folder)):
            stage(note)
    seen = cache_root() / "sources" / hash_json(str(sources.folder.resolve()))[:20]
    with suppress(OSError):  # a cache that cannot be written is good enough to read
        seen.mkdir(parents=True, exist_ok=True)
        (seen / folder.name).touch()
    _warn_of_replaced(folder, record, features, seen, sources.chosen)
    return folder


def _warn_of_replaced(folder: Path, record: dict[str, Any], features: dict[str, str], seen: Path, chosen: bool) -> None:
    """Say which features of the folder were replaced elsewhere: the user may believe that they are in use here.

    features: the source's file of each modality. seen: holds a file by the name of every preparation of this source
    folder, whatever its files were then. chosen: no feature is missed, for the user named those that are wanted.
    """
    own = read_manifest(folder)
    told: dict[str, dict[bool, set[str]]] = {}
    for other, same in _other_preparations(folder, record, seen):
        theirs = other["source"]["files"]
        for modality in own["features"].keys() & other["features"].keys() if chosen else other["features"]:
            encoder, name = other["features"][modality]["encoder"], features.get(modality)
            if name is not None and record["files"].get(name) != theirs.get(name):
                continue  # the user has given another file since
            # What PTMRec tuned knows the train rows of its own split.
            if _is_replaced(other, modality) and not _is_replaced(own, modality) and "tuned by" not in encoder:
                told.setdefault(modality, {}).setdefault(same, set()).add(encoder)
    for modality, by_same in sorted(told.items()):
        same = True in by_same
        encoder = ", ".join(sorted(by_same[same]))
        state, verb = ("those of its files", "replaced") if modality in own["features"] else ("missing", "added")
        now, then = ("under these settings", "under others") if same else ("now that its files changed", "before,")
        warnings.warn(
            f"the features '{modality}' of '{own['name']}' are {state} {now}; {then} they were {verb} ({encoder}). "
            f"To have that encoder's here too, run `mmfast features '{folder}'` with the same options, and --pictures "
            "for where the photos lie",
            stacklevel=2,
        )


def _other_preparations(folder: Path, record: dict[str, Any], seen: Path) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the manifests of what the cache holds of the same source, and whether its files were the same."""
    name = re.compile(re.escape(folder.name.rpartition("-")[0]) + r"-[0-9a-f]{20}")
    for path in sorted(folder.parent.iterdir()):
        if path == folder or not name.fullmatch(path.name):
            continue
        try:
            manifest = read_manifest(path)
        except (MmfastError, OSError):  # damaged, or being written
            continue
        source = manifest["source"]
        common = record["files"].keys() & source.get("files", {}).keys()
        if source.get("format") != record["format"]:
            continue
        same = all(source["files"][n] == record["files"][n] for n in common)
        if same or os.path.exists(seen / path.name):  # Path.exists raises where a folder is closed to this user
            yield manifest, same


def _is_replaced(manifest: dict[str, Any], modality: str) -> bool:
    about = manifest["features"].get(modality)
    return about is not None and about["file"] != f"feature_{modality}.npy"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
