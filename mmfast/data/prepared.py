"""Prepared folders: written whole or not at all, read with memory-mapped features, verified on request."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmfast.data.dataset import PARTS, Dataset, Interactions
from mmfast.data.features import check_feature_shape, check_modality, zero_rows
from mmfast.data.hashing import hash_file
from mmfast.data.ids import IdTable, check_unique
from mmfast.data.manifest import MANIFEST, damaged, read_manifest, write_manifest
from mmfast.data.notes import HELD_OUT, pairs_also_in_train
from mmfast.data.raw import FeatureSource
from mmfast.data.storage import new_folder, save_npy
from mmfast.errors import MmfastError

ROWS_PER_GROUP = 1 << 20
RECORD = {"split": {"rule": "column"}, "dropped": {}, "source": {}, "k_core": 0, "cold_users": "keep"}
ROW_TYPES = {"user": pl.Int32, "item": pl.Int32, "split": pl.Int8, "time": pl.Int64}


def write_prepared(
    folder: Path | str,
    *,
    name: str,
    rows: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    features: Mapping[str, np.ndarray | FeatureSource] | None = None,
    item_codes: np.ndarray | None = None,
    record: Mapping[str, Any] | None = None,
    replace: bool = False,
    keep_existing: bool = False,
    stage: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a prepared folder and return its path; nothing appears under `folder` unless all went well.

    rows: user, item, split (0/1/2) and optionally time. users, items: column `id`, row = internal id; items may have
    title, text, image, ... features: [I, F] arrays or sources (`item_codes` are then the source's codes of the items).
    record: entries for the manifest (split, source, dropped, k_core, cold_users, time).
    Raises MmfastError for content no Dataset may have, a folder that cannot be written, or one that exists while
    neither `replace` nor `keep_existing` is set.
    """
    folder = Path(folder)
    codes = np.arange(items.height) if item_codes is None else item_codes
    columns = [column for column in ROW_TYPES if column in rows.columns]
    rows = rows.select(pl.col(c).cast(ROW_TYPES[c]) for c in columns).sort("split", "user", "item")
    parts = parts_of(rows)
    _check_content(name, parts, users, items, features or {})
    with new_folder(folder, replace=replace, keep_existing=keep_existing) as work:
        stage("writing interactions")
        for table, file in ((rows, "interactions"), (users, "users"), (items, "items")):
            _write_parquet(table, work / f"{file}.parquet")
        stage("writing features")
        described = {m: write_feature(work, m, one, codes, items["id"]) for m, one in sorted((features or {}).items())}
        stage("hashing")
        sizes = {"num_users": users.height, "num_items": items.height, "rows": part_sizes(rows["split"])}
        sizes[HELD_OUT] = pairs_also_in_train(parts, items.height)
        write_manifest(work, {**RECORD, **(record or {}), "name": name, **sizes, "features": described})
    return folder


def _check_content(
    name: str, parts: dict[str, Interactions], users: pl.DataFrame, items: pl.DataFrame, modalities: Iterable[str]
) -> None:
    """Refuse repeated ids, ids out of range, empty parts and unusable names before anything is written."""
    for kind, table in (("user", users), ("item", items)):
        check_unique(kind, table["id"])
    for modality in modalities:
        check_modality(modality)
    Dataset(name, users.height, items.height, **parts)


def part_sizes(labels: pl.Series) -> dict[str, int]:
    """Return rows per part of int labels 0/1/2."""
    return {part: int((labels == label).sum()) for label, part in enumerate(PARTS)}


def read_prepared(folder: Path | str) -> Dataset:
    """Return the Dataset of a prepared folder; files that changed after its manifest are hashed again.

    Raises MmfastError, one sentence, for a damaged or changed folder or an unknown format version.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    _check_unchanged(folder, manifest)
    rows = read_rows(folder, manifest)
    features = {m: _map_feature(folder, m, about, manifest) for m, about in manifest["features"].items()}
    return Dataset(
        name=manifest["name"],
        num_users=manifest["num_users"],
        num_items=manifest["num_items"],
        **parts_of(rows),
        features=features,
        missing={m: np.asarray(about["missing"], np.int64) for m, about in manifest["features"].items()},
        manifest=manifest,
        known_hashes={m: manifest["files"][about["file"]]["sha256"] for m, about in manifest["features"].items()},
        checked=frozenset(features),
        **id_tables(folder, manifest),
    )


def _check_unchanged(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse files that changed after the manifest, which is written last, unless their content is the same.

    By the time of the last change (ctime), which no program sets back, unlike that of the last writing.
    """
    written = (folder / MANIFEST).stat().st_ctime_ns
    younger = [name for name in manifest["files"] if (folder / name).stat().st_ctime_ns > written]
    _check_hashes(folder, manifest, younger)
    if younger:
        with contextlib.suppress(OSError):  # a copied folder is hashed once, unless it cannot be written
            os.utime(folder / MANIFEST)


def _check_hashes(folder: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    changed = [name for name in names if hash_file(folder / name) != manifest["files"][name]["sha256"]]
    if changed:
        raise damaged(folder, f"the content of {', '.join(changed)} is not what was written")


def read_rows(folder: Path, manifest: Mapping[str, Any]) -> pl.DataFrame:
    """Return interactions.parquet: user, item, split[, time], sorted by split, user, item."""
    rows = read_table(folder, "interactions.parquet")
    if not {"user", "item", "split"} <= set(rows.columns):
        raise damaged(folder, f"interactions.parquet has the columns {', '.join(rows.columns)}")
    found = part_sizes(rows["split"])
    if found != manifest["rows"]:
        raise damaged(folder, f"interactions.parquet has {found} rows, not {manifest['rows']}")
    return rows


def parts_of(rows: pl.DataFrame) -> dict[str, Interactions]:
    """Return train, valid and test of labelled rows; a pair repeated inside a part is an error."""
    split, user, item = (rows[column].to_numpy() for column in ("split", "user", "item"))
    return {part: Interactions.from_pairs(user[split == k], item[split == k]) for k, part in enumerate(PARTS)}


def id_tables(folder: Path, manifest: Mapping[str, Any]) -> dict[str, IdTable]:
    """Return the two id tables of a prepared folder, read when first used."""
    return {
        f"{kind}_id_table": IdTable(kind, manifest[f"num_{kind}s"], partial(read_table, folder, f"{kind}s.parquet"))
        for kind in ("user", "item")
    }


def verify_prepared(folder: Path | str) -> list[str]:
    """Hash every file, compare with the manifest, and check the feature values; return the names of the files.

    Raises MmfastError naming the files that differ.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    _check_hashes(folder, manifest, manifest["files"])
    for modality, about in manifest["features"].items():
        array = _map_feature(folder, modality, about, manifest)
        hidden = np.setdiff1d(zero_rows(modality, array), about["missing"])
        if hidden.size:
            raise damaged(folder, f"{hidden.size} zero rows of '{modality}' are not recorded as missing")
    read_prepared(folder)
    return list(manifest["files"])


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    frame = frame.with_columns(pl.col("id").cast(pl.String)) if "id" in frame.columns else frame
    frame.write_parquet(path, compression="zstd", compression_level=3, statistics=False, row_group_size=ROWS_PER_GROUP)


def read_table(folder: Path, name: str) -> pl.DataFrame:
    """Return a table of a prepared folder. Raises MmfastError when it cannot be read."""
    try:
        return pl.read_parquet(folder / name, use_statistics=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise damaged(folder, f"'{name}' cannot be read ({reason})") from None


def write_feature(
    folder: Path, modality: str, source: np.ndarray | FeatureSource, codes: np.ndarray, ids: pl.Series
) -> dict[str, Any]:
    """Write `feature_<modality>.npy` into a folder; return its entry of the manifest."""
    path = folder / f"feature_{modality}.npy"
    if isinstance(source, np.ndarray):
        check_feature_shape(modality, source, len(codes))
        missing, about = zero_rows(modality, source), {"encoder": "unknown", "source": None}
        save_npy(path, source)
    else:
        missing = source.write(path, modality, codes, ids)
        about = {"encoder": source.encoder, "source": source.origin}
    written = np.load(path, mmap_mode="r")
    return {
        **about,
        "file": path.name,
        "shape": list(written.shape),
        "dtype": str(written.dtype),
        "missing": missing.tolist(),
    }


def _map_feature(folder: Path, modality: str, about: Mapping[str, Any], manifest: Mapping[str, Any]) -> np.ndarray:
    try:
        array = np.load(folder / about["file"], mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise damaged(folder, f"'{about['file']}' cannot be read ({error})") from None
    if list(array.shape) != list(about["shape"]):
        raise damaged(folder, f"'{about['file']}' has shape {array.shape}, not {tuple(about['shape'])}")
    try:
        check_feature_shape(modality, array, manifest["num_items"])
    except MmfastError as error:
        raise damaged(folder, str(error)) from None
    return array
