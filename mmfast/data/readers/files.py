"""Source files of a folder, and which `.npy` file holds which modality."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmfast.data.features import check_modality
from mmfast.errors import MmfastError, suggest

MARK = r"(?:feat|feats|feature|features)"
NAMED = re.compile(rf"^(?P<modality>[A-Za-z0-9]+)_{MARK}(?:_(?P<variant>.+))?$")
WANTED = "want a matrix of numbers, one row per item"
PREFIXED = re.compile(rf"^{MARK}_(?P<modality>[A-Za-z0-9]+)$")


@dataclass
class Sources:
    """The files a reader will read: `files` by role, `features` by modality, `choices` where the name is ambiguous.

    `listed` are folders of which only the names of the files matter, such as covers; `passed_over` are names of `.npy`
    files that are not taken as features -> why. `chosen`: the features were narrowed to those that somebody named.
    """

    format: str
    folder: Path
    files: dict[str, Path]
    features: dict[str, Path] = field(default_factory=dict)
    choices: dict[str, list[Path]] = field(default_factory=dict)
    listed: dict[str, Path] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    chosen: bool = False

    def paths(self) -> list[Path]:
        """Every file, sidecars of features included, in a fixed order."""
        sidecars = [path.with_suffix(".json") for path in self.features.values()]
        used = [*self.files.values(), *self.features.values(), *(path for path in sidecars if path.is_file())]
        return sorted(set(used))

    def choose(self, wanted: list[str] | tuple[str, ...] | dict[str, str] | None) -> None:
        """Narrow the features: None takes all, a list names modalities, a dict maps a modality to a file.

        Raises MmfastError for an unknown modality, one whose name cannot be a key, a missing file, or several files.
        """
        self.chosen = wanted is not None
        if isinstance(wanted, dict):
            self.features = {modality: self._named(modality, name) for modality, name in wanted.items()}
            self.passed_over = {}
            return
        for modality in {**self.choices, **self.features} if wanted is None else wanted:
            if modality in self.choices:
                files = ", ".join(path.name for path in self.choices[modality])
                raise MmfastError(
                    f"'{self.folder}' has several files for '{modality}' ({files}); choose one with "
                    f'data.features={{"{modality}": "{self.choices[modality][0].name}"}}'
                )
            if modality not in self.features:
                if f"{modality}.npy" in self.passed_over:
                    why = self.passed_over[f"{modality}.npy"]
                    raise MmfastError(f"features '{modality}': '{self.folder / modality}.npy' {why}")
                known = ", ".join(sorted(self.features)) or "none"
                raise MmfastError(
                    f"'{self.folder}' has no features '{modality}'.{suggest(modality, self.features)} Known: {known}"
                )
            check_modality(modality, given_by=self.features[modality].name)
        if wanted is not None:
            self.features = {modality: self.features[modality] for modality in wanted}
            self.passed_over = {}

    def _named(self, modality: str, name: str) -> Path:
        check_modality(modality)
        path = Path(name).expanduser()
        path = path if path.is_absolute() else self.folder / path
        if not path.is_file():
            arrays = ", ".join(sorted(p.name for p in self.folder.glob("*.npy"))) or "none"
            raise MmfastError(f"features '{modality}': '{path}' does not exist; .npy files there: {arrays}")
        return path


def sources_with_features(
    format: str, folder: Path, files: dict[str, Path], listed: dict[str, Path] | None = None
) -> Sources:
    """Return the sources of a folder whose features are told by the names of its `.npy` files.

    `image_feat`, `image_features` and `feature_image` are "image"; `text_feat_minilm` is "text" when no plain file
    is; any other stem is a modality of its own if the file holds a matrix of numbers, or cannot be read, which is told
    when it is read. What else it may hold is told as a note.
    """
    passed_over: dict[str, str] = {}
    plain: dict[str, list[Path]] = {}
    variants: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.npy")):
        match = PREFIXED.match(path.stem) or NAMED.match(path.stem)
        if match is None:
            why = _unusable(path)
            if why:
                passed_over[path.name] = why
            else:
                plain.setdefault(path.stem, []).append(path)
        elif match.groupdict().get("variant"):
            variants.setdefault(match["modality"], []).append(path)
        else:
            plain.setdefault(match["modality"], []).append(path)
    every = {**variants, **plain}
    found = {modality: paths[0] for modality, paths in every.items() if len(paths) == 1}
    choices = {modality: paths for modality, paths in every.items() if len(paths) > 1}
    return Sources(format, folder, files, found, choices, listed or {}, passed_over)


def sidecar(path: Path) -> dict[str, Any]:
    """Return the JSON next to a feature file (encoder, missing item ids, ...), {} without one."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        match = NAMED.match(path.stem)
        return {"encoder": match["variant"]} if match and match["variant"] else {}
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MmfastError(f"'{beside}' is not JSON ({error}); correct or remove it") from None
    if not isinstance(content, dict):
        raise MmfastError(f"'{beside}' holds a {type(content).__name__}; want a JSON object")
    return content


def first_file(folder: Path, *names: str) -> Path | None:
    """Return the first of `names` (glob patterns) that exists. Raises MmfastError when a pattern fits several."""
    for name in names:
        found = sorted(path for path in folder.glob(name) if path.is_file())
        if len(found) > 1:
            listed = ", ".join(path.name for path in found)
            raise MmfastError(f"'{folder}' has several files {name} ({listed}); keep one per folder")
        if found:
            return found[0]
    return None


def unnumbered(folder: Path) -> dict[str, str]:
    """Return why the `.npy` files beside raw data, whose items are numbered only when prepared, are no features."""
    why = "has rows that name no item of raw files; prepare without it, then give it with the prepared folder"
    return {path.name: why for path in sorted(folder.glob("*.npy"))}


def _unusable(path: Path) -> str:
    """Return why a `.npy` file cannot be features, "" for a matrix of numbers and a damaged file."""
    # Other arrays lie next to features, such as pickled graphs and lists of ids; only the header is read.
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        return f"holds Python objects; {WANTED}" if "Python objects" in str(error) else ""
    # An archive of arrays under the name of one is told when it is read, too.
    if not isinstance(array, np.ndarray) or (array.ndim == 2 and array.dtype.kind in "fiu"):
        return ""
    return f"holds {array.dtype} of shape {array.shape}; {WANTED}"
