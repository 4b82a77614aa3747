"""Replaced features belong to the source: its other preparations in the cache take their rows, item by item."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmfast.data.manifest import read_manifest
from mmfast.data.prepared import read_table
from mmfast.data.raw import MatrixFile
from mmfast.data.readers.files import sidecar
from mmfast.data.replace_features import replace_features
from mmfast.data.storage import locked
from mmfast.errors import MmfastError

FEATURE_FILES = (".npy", ".b", ".json")  # of features and of what lies beside them
FROM_TRAIN = "from_train_rows"  # in a sidecar: the features know the train rows of their split
BY_PLACE = ("shape", "missing", "inputs", "items")  # of a sidecar: holds for one list of items only


@dataclass(frozen=True)
class Replaced:
    """A feature of a preparation that came after its source's, and when."""

    folder: Path
    about: dict[str, Any]
    manifest: dict[str, Any]
    time_ns: int


@dataclass
class TakenRows(MatrixFile):
    """Rows of another preparation, which keep their encoder, their sidecar and their time."""

    about: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    time_ns: int = 0

    @property
    def origin(self) -> str:
        """What the other manifest names as the source."""
        return self.about["source"]

    def write(self, path: Path, modality: str, codes: np.ndarray, ids: pl.Series) -> np.ndarray:
        """Copy the rows; the file's time stays that of the replacing, so that the newest is known everywhere."""
        missing = super().write(path, modality, codes, ids)
        os.utime(path, ns=(self.time_ns, self.time_ns))
        return missing

    def sidecar(self) -> dict[str, Any]:
        """Return what the other sidecar tells."""
        return self.told


def renew_features(
    folder: Path,
    record: Mapping[str, Any],
    raw: Collection[str],
    files: Mapping[str, str],
    every: bool,
    stage: Callable[[str], None] = lambda text: None,
) -> None:
    """Give a folder of the cache the features that were replaced last in any preparation of the same source.

    record: the source's own; raw: names of its files that are no features; files: modality -> name of its source file,
    where a preparation whose file was another does not count. every: also take modalities that the source lacks.
    Raises MmfastError where the other preparation lacks items, or its features know the train rows of another split.
    """
    newest: dict[str, Replaced] = {}
    for sibling in _siblings(folder):
        for modality, one in _replaced(sibling, record, raw):
            name = files.get(modality)
            if name is None and not every:
                continue
            if name is not None and one.manifest["source"]["files"].get(name) != record["files"][name]:
                continue
            # The folder itself comes first: of equal times its own stays.
            if modality not in newest or one.time_ns > newest[modality].time_ns:
                newest[modality] = one
    taken = {modality: one for modality, one in newest.items() if one.folder != folder}
    if taken:
        own, ids = read_manifest(folder), read_table(folder, "items.parquet")["id"]
        sources = {modality: _rows(modality, one, folder, own, ids) for modality, one in taken.items()}
        told = ", ".join(f"{modality} ({one.about['encoder']})" for modality, one in sorted(taken.items()))
        stage(f"taking features that were replaced: {told}")
        replace_features(folder, sources)


def _siblings(folder: Path) -> list[Path]:
    """Return the preparations of data of the same name in the cache, the folder itself first."""
    prefix = folder.name.rpartition("-")[0]
    pattern = re.compile(re.escape(prefix) + r"-[0-9a-f]{20}")
    return [folder, *sorted(p for p in folder.parent.iterdir() if pattern.fullmatch(p.name) and p != folder)]


def _replaced(folder: Path, record: Mapping[str, Any], raw: Collection[str]) -> Iterator[tuple[str, Replaced]]:
    """Yield the replaced features of a preparation, none of one that is damaged or of another source."""
    try:
        with locked(folder):  # nobody is publishing: the files are those of the manifest
            manifest = read_manifest(folder)
            times = {
                modality: (folder / about["file"]).stat().st_mtime_ns
                for modality, about in manifest["features"].items()
                if about["file"] != f"feature_{modality}.npy"
            }
    except (MmfastError, OSError):
        return
    if _same_source(manifest["source"], record, raw):
        for modality, time_ns in times.items():
            yield modality, Replaced(folder, manifest["features"][modality], manifest, time_ns)


def _same_source(other: Mapping[str, Any], record: Mapping[str, Any], raw: Collection[str]) -> bool:
    """Whether two records of sources differ in features at most."""
    theirs = other.get("files", {})
    if any(theirs.get(name) != record["files"][name] for name in raw):
        return False
    more = all(name.endswith(FEATURE_FILES) for name in theirs if name not in raw)
    return more and all(other.get(key) == record.get(key) for key in ("format", "listings"))


def _rows(modality: str, one: Replaced, folder: Path, own: Mapping[str, Any], ids: pl.Series) -> TakenRows:
    """Return the source of the rows of `ids`. Raises MmfastError where they cannot be had."""
    what = f"the features '{modality}' of '{own['name']}' were replaced ({one.about['encoder']}) in '{one.folder}'"
    told = sidecar(one.folder / one.about["file"])
    if told.get(FROM_TRAIN) and any(own.get(key) != one.manifest.get(key) for key in ("split", "k_core")):
        raise MmfastError(
            f"{what} by ones that know the train rows of another split or core; tune some for these settings, or "
            "remove that folder to have the features of the source again (--out writes such features into a copy)"
        )
    theirs = read_table(one.folder, "items.parquet")["id"]
    places = pl.DataFrame({"id": theirs}).with_row_index("row")
    rows = ids.to_frame("id").join(places, on="id", how="left", maintain_order="left")["row"]
    if rows.null_count():
        raise MmfastError(
            f"{what}, which lacks {rows.null_count():,} of the {len(ids):,} items under these settings (first: "
            f"'{ids.filter(rows.is_null())[0]}'); run `mmfast features '{folder}'` with the same options, and "
            "--pictures for where the photos lie"
        )
    if not ids.equals(theirs):
        told = {key: value for key, value in told.items() if key not in BY_PLACE}
    row_of_item = rows.to_numpy().astype(np.int64)
    missing = np.flatnonzero(np.isin(row_of_item, one.about["missing"]))
    path = one.folder / one.about["file"]
    about = {"about": one.about, "told": told, "time_ns": one.time_ns}
    return TakenRows(path, len(ids), row_of_item, one.about["encoder"], missing, **about)
