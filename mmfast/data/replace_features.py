"""New features for a prepared folder: the manifest that names them replaces the old one in a single step."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmfast.data.features import check_modality
from mmfast.data.hashing import hash_file, hash_json
from mmfast.data.manifest import MANIFEST, file_record, read_manifest
from mmfast.data.prepared import read_table, write_feature
from mmfast.data.raw import FeatureSource
from mmfast.data.storage import locked, remove_abandoned, replace_file, sync
from mmfast.errors import MmfastError, disk_advice

PART = ".features."  # folders of features that are being written
BY_CONTENT = re.compile(r"feature_.+-[0-9a-f]{16}\.(npy|json)")
OLD_PART = re.compile(r"\.manifest\.json\..+\.part")


def replace_features(folder: Path | str, sources: Mapping[str, FeatureSource]) -> dict[str, Any]:
    """Write the features of `sources` (by modality) into a prepared folder; return its new manifest.

    Every feature file is named by its content and has a sidecar, the source's `sidecar()` where it has one. Until the
    new manifest is there, which is one rename, readers see the old features; from then on only the new ones. Features
    of other modalities stay. Safe for several processes and after a kill at any moment.
    Raises MmfastError for a folder that cannot be written, is damaged, or what the sources raise.

    >>> replace_features("data/shop", {"image": features})  # doctest: +SKIP
    """
    folder = Path(folder)
    for modality in sources:
        check_modality(modality)
    ids = read_table(folder, "items.parquet")["id"]
    try:
        with _part_folder(folder) as part:
            described = {m: _describe(part, m, source, ids) for m, source in sorted(sources.items())}
            with locked(folder):
                return _publish(folder, part, described)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MmfastError(f"cannot write features into '{folder}': {reason}; {disk_advice(error, '--out')}") from error


def item_list_hash(ids: pl.Series) -> str:
    """Return the sha256 of the original ids of the items in their order: to whom the rows of a feature belong."""
    return hash_json(ids.to_list())


def _describe(part: Path, modality: str, source: FeatureSource, ids: pl.Series) -> dict[str, Any]:
    """Write one feature and its sidecar into the part folder, named by content; return its entry of the manifest."""
    about = write_feature(part, modality, source, np.arange(len(ids)), ids)
    written = part / about["file"]
    sidecar = {"encoder": about["encoder"], "source": about["source"], "shape": about["shape"], "dtype": about["dtype"]}
    told = getattr(source, "sidecar", dict)()
    missing = {"missing": ids.gather(about["missing"]).to_list()}
    text = json.dumps({**sidecar, **missing, **told, "items": item_list_hash(ids)}, indent=1, ensure_ascii=False)
    # Of both: under a name that an older manifest knows, neither file may change before the new manifest is there.
    name = f"feature_{modality}-{hash_json([hash_file(written), text])[:16]}"
    (part / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return {**about, "file": written.rename(part / f"{name}.npy").name}


def _publish(folder: Path, part: Path, described: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Move the new files in, then the manifest that names them, then remove what no manifest names any more."""
    manifest = read_manifest(folder)
    old = {name for m in described for name in _files_of(manifest["features"].get(m), manifest["files"])}
    new = sorted(part.iterdir())
    records = {path.name: file_record(path) for path in new}
    for path in new:
        sync(path)
        path.replace(folder / path.name)
    sync(folder)
    manifest["features"] = dict(sorted({**manifest["features"], **described}.items()))
    kept = {name: record for name, record in manifest["files"].items() if name not in old}
    manifest["files"] = dict(sorted({**kept, **records}.items()))
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    replace_file(folder / MANIFEST, (text + "\n").encode("utf-8"))
    for name in old - set(records):
        (folder / name).unlink(missing_ok=True)
    return manifest


def _files_of(about: Mapping[str, Any] | None, files: Mapping[str, Any]) -> list[str]:
    if about is None:
        return []
    beside = Path(about["file"]).with_suffix(".json").name
    return [about["file"], *([beside] if beside in files else [])]


@contextmanager
def _part_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder inside `folder` for files that are being written; those that killed processes left are removed."""
    with ExitStack() as stack:
        with locked(folder):
            _sweep(folder)
            part = Path(tempfile.mkdtemp(prefix=PART, dir=folder))
            stack.enter_context(locked(part))
        stack.callback(shutil.rmtree, part, ignore_errors=True)
        yield part


def _sweep(folder: Path) -> None:
    """Remove what killed processes left; the lock of the folder is held, so that nobody is publishing."""
    for part in folder.glob(f"{PART}*"):
        remove_abandoned(part)
    named = read_manifest(folder)["files"]
    for path in folder.iterdir():
        if path.name not in named and (BY_CONTENT.fullmatch(path.name) or OLD_PART.fullmatch(path.name)):
            path.unlink(missing_ok=True)
