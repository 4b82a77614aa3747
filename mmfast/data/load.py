"""load_dataset: from a config or a name to a Dataset, prepared on the way if need be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmfast.data.build import Settings, clean_parts, label_rows
from mmfast.data.cache import prepared_in_cache
from mmfast.data.dataset import Dataset
from mmfast.data.features import check_feature_shape, check_modality, zero_rows
from mmfast.data.hashing import hash_file
from mmfast.data.locate import DEMO, Located, check_counts, core_of, locate
from mmfast.data.manifest import is_prepared
from mmfast.data.notes import HELD_OUT, pairs_also_in_train
from mmfast.data.prepared import parts_of, read_prepared, read_rows
from mmfast.data.raw import open_matrix
from mmfast.data.readers import find_sources
from mmfast.data.splits import USUAL_COLUMN, USUAL_COLUMNS, seed_of
from mmfast.errors import MmfastError, suggest


@dataclass(frozen=True)
class Request:
    """What is asked of the data room: the fields of the data section of a config."""

    name: str
    root: str | None = None
    features: list[str] | dict[str, str] | None = None
    split: str = "auto"
    split_column: str = "split"
    k_core: int | None = None
    split_seed: int | None = None
    cold_users: str = "drop"

    @property
    def seed(self) -> int | None:
        """The seed of the split: the one given, else the rule's own; None for a rule that draws nothing."""
        return seed_of(self.split, self.split_seed)


def load_dataset(config_or_name: Any, *, stage: Callable[[str], None] = lambda text: None, **changes: Any) -> Dataset:
    """Return the Dataset of a name, a path, or a config (an object with the fields of `Request`, or with `.data`).

    `changes` set or replace fields: root, features, split, split_column, split_seed, k_core, cold_users. When data are
    prepared into the cache, `stage` is told what is done, then what was left out and which items lack a feature.
    Raises MmfastError for an unknown name or field, missing files, or data that do not fit.

    >>> load_dataset("baby", root="data", split="lattice", features=["text"])  # doctest: +SKIP
    """
    request = _request(config_or_name, changes)
    place = locate(request.name, request.root)
    if is_prepared(place.folder):
        dataset = _from_prepared(place.folder, request)
    else:
        dataset = read_prepared(_prepare(place, request, stage))
    if place.card is not None:
        check_counts(dataset, place.card, accept=request.split != "auto" or bool(request.k_core))
    return dataset


def prepared_folder(
    config_or_name: Any, *, stage: Callable[[str], None] = lambda text: None, **changes: Any
) -> tuple[Path, Path]:
    """Return (prepared folder, folder of its source files) of what `load_dataset` takes; of prepared data both are one.

    Raises what `load_dataset` raises for an unknown name or missing files.
    """
    request = _request(config_or_name, changes)
    place = locate(request.name, request.root)
    if is_prepared(place.folder):
        return place.folder, place.folder
    return _prepare(place, request, stage), place.folder


def _prepare(place: Located, request: Request, stage: Callable[[str], None]) -> Path:
    """Return the folder in the cache that the source files of a place are prepared into."""
    try:
        sources = find_sources(place.folder)
    except MmfastError as error:
        if place.card is None:
            raise
        raise MmfastError(f"{error}. For the data set '{place.name}' download {place.card.source}") from None
    sources.choose(request.features)
    core = core_of(sources.format, request.k_core)
    settings = Settings(request.split, request.split_seed, core, request.cold_users, request.split_column)
    return prepared_in_cache(sources, settings, place.name, stage)


def _request(config_or_name: Any, changes: Mapping[str, Any]) -> Request:
    known = [f.name for f in fields(Request)]
    for name in changes:
        if name not in known:
            raise MmfastError(f"load_dataset: unknown field '{name}'.{suggest(name, known)} Known: {', '.join(known)}")
    if isinstance(config_or_name, str | Path):
        return Request(**{"name": str(config_or_name), **changes})
    section = getattr(config_or_name, "data", config_or_name)
    given = {name: getattr(section, name) for name in known if hasattr(section, name)}
    if "name" not in given:
        raise MmfastError(f"load_dataset: got {type(section).__name__}; want a name, a path or a data config")
    return Request(**{**given, **changes})


def _from_prepared(folder: Path, request: Request) -> Dataset:
    dataset = read_prepared(folder)
    _check_core(dataset.manifest.get("k_core", 0), folder, request)
    dataset = _select_features(dataset, folder, request.features)
    return _resplit(dataset, folder, request)


def _resplit(dataset: Dataset, folder: Path, request: Request) -> Dataset:
    """Apply another split rule to the stored rows, or drop the rows of cold users that the folder keeps."""
    manifest = dict(dataset.manifest)
    again = request.split not in ("auto", "column") and _differs(manifest["split"], request)
    _check_split(manifest["split"], folder, request, again)
    kept_cold = manifest.get("cold_users", "keep") == "keep"
    lost = sum(manifest["dropped"].get("cold_user_rows", {}).values())
    if lost and (again or request.cold_users == "keep"):
        raise MmfastError(
            f"prepared folder '{folder}' lacks {lost} rows of users without a train row; to split it anew or keep them "
            "prepare it again with --cold-users keep"
        )
    if not again and (request.cold_users == "keep" or not kept_cold):
        return dataset
    rows, dropped = read_rows(folder, manifest), dict(manifest["dropped"])
    if again:
        rows, manifest["split"] = label_rows(rows, request.split, request.split_seed, manifest.get("time"))
    parts = parts_of(clean_parts(rows, request.cold_users, dropped))
    manifest.update(dropped=dropped, cold_users=request.cold_users)
    manifest[HELD_OUT] = pairs_also_in_train(parts, dataset.num_items)
    return replace(dataset, manifest=manifest, **parts)


def _check_core(stored: int, folder: Path, request: Request) -> None:
    # 0 and 1 both mean none.
    if request.k_core is None or max(request.k_core, 1) == max(stored, 1):
        return
    if request.name == DEMO:
        raise MmfastError(f"data.k_core={request.k_core}: the demo catalogue is made as it is; leave data.k_core out")
    raise MmfastError(
        f"prepared folder '{folder}' was made with k_core={stored}, not {request.k_core}; prepare it again: mmfast "
        f"prepare SOURCE {folder} --k-core {request.k_core} --force, or leave data.k_core out"
    )


def _check_split(stored: Mapping[str, Any], folder: Path, request: Request, again: bool) -> None:
    """Refuse a split column that the folder does not hold, or a seed that no new split (`again`) makes use of."""
    rule, seed = stored["rule"], stored.get("seed")
    columns = (stored["column"].lower(),) if "column" in stored else USUAL_COLUMNS
    made = f"prepared folder '{folder}' holds the split of rule '{rule}'"
    if rule != "column" and (request.split == "column" or request.split_column != USUAL_COLUMN):
        raise MmfastError(
            f"{made} and no split column '{request.split_column}'; leave data.split and data.split_column out to use "
            "it, or choose a rule such as data.split=mmrec"
        )
    if request.split_column.lower() not in (USUAL_COLUMN, *columns):
        raise MmfastError(
            f"{made} by the labels of {' or '.join(columns)}, not of '{request.split_column}'; leave "
            f"data.split_column out, or prepare it again with --split-column {request.split_column}"
        )
    if not again and request.split_seed not in (None, seed):
        raise MmfastError(
            f"{made} with {'no seed' if seed is None else f'seed {seed}'}, not seed {request.split_seed}; leave "
            f"data.split_seed out, or split anew with data.split={'mmrec' if rule == 'column' else rule}"
        )


def _differs(stored: Mapping[str, Any], request: Request) -> bool:
    return stored.get("rule") != request.split.replace("_", "-") or stored.get("seed") != request.seed


def _select_features(dataset: Dataset, folder: Path, wanted: list[str] | dict[str, str] | None) -> Dataset:
    if wanted is None:
        return dataset
    if isinstance(wanted, Mapping):
        return _other_features(dataset, folder, wanted)
    for modality in wanted:
        if modality not in dataset.features:
            known = ", ".join(dataset.modalities) or "none"
            raise MmfastError(
                f"data set '{dataset.name}' has no features '{modality}'.{suggest(modality, dataset.modalities)} "
                f"Known: {known}"
            )
    return replace(dataset, features={modality: dataset.features[modality] for modality in wanted})


def _other_features(dataset: Dataset, folder: Path, files: Mapping[str, str]) -> Dataset:
    """Take features from the named `.npy` files, row = internal item id; their content is checked and hashed now."""
    features, missing, hashes = {}, {}, {}
    for modality, name in files.items():
        check_modality(modality)
        path = Path(name).expanduser()
        path = path if path.is_absolute() else folder / path
        array: np.ndarray = open_matrix(path)
        check_feature_shape(f"{modality}' of '{path.name}", array, dataset.num_items)
        features[modality], hashes[modality] = array, hash_file(path)
        missing[modality] = zero_rows(f"{modality}' of '{path.name}", array)
    return replace(dataset, features=features, missing=missing, known_hashes=hashes, checked=frozenset(features))
