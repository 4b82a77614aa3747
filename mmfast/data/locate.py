"""From a data set's name to its folder: built-in names and aliases, folders under the data root, paths."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from mmfast.data.dataset import PARTS, Dataset
from mmfast.data.datasets import Card
from mmfast.data.readers import FORMATS
from mmfast.errors import MmfastError, suggest
from mmfast.registry import DATASETS

DEMO = "demo"


@dataclass(frozen=True)
class Located:
    """A folder with data, the name to give the data set, and its card when the name is a built-in one."""

    folder: Path
    name: str
    card: Card | None = None


def locate(name: str, root: str | None) -> Located:
    """Return where the data set `name` lies.

    `name` is "demo", a path to a folder, a folder under the root (also as amazon-NAME), or a built-in name or one of
    its aliases. The root is `root`, else MMFAST_DATA, else "data". Raises MmfastError that says what to download and
    where to put it, or that the name is unknown, with a suggestion.
    """
    if name == DEMO:
        from mmfast.data.demo import demo_folder

        return Located(Path(demo_folder()), DEMO)
    path = Path(name).expanduser()
    if path.is_absolute() or len(path.parts) > 1 or name in (".", ".."):
        if path.is_dir():
            return Located(path, path.resolve().name)
        raise MmfastError(f"data set '{name}': there is no such folder; give one that is, or the name of a data set")
    base = Path(root or os.environ.get("MMFAST_DATA") or "data").expanduser()
    builtin, card = card_of(name)
    candidates = dict.fromkeys([name, f"amazon-{name}", builtin, *(card.aliases if card else ())])
    for candidate in filter(None, candidates):
        if (base / candidate).is_dir():
            return Located(base / candidate, builtin or name, card)
    if path.is_dir():
        return Located(path, builtin or name, card)
    raise _not_found(name, builtin, card, base)


def check_counts(dataset: Dataset, card: Card, accept: bool) -> None:
    """Compare a built-in data set with its published size; a difference is an error, with `accept` a warning."""
    dropped = dataset.manifest.get("dropped", {})
    lost = sum(dropped.get("cold_user_rows", {}).values()) + sum(dropped.get("repeated_pairs", {}).values())
    rows = sum(len(dataset.part(part)) for part in PARTS) + lost
    found = {"users": dataset.num_users, "items": dataset.num_items, "interactions": rows}
    published = {"users": card.users, "items": card.items, "interactions": card.rows}
    differ = [
        f"{found[what]:,} {what} where {number:,} are published"
        for what, number in published.items()
        if number is not None and number != found[what]
    ]
    if not differ:
        return
    message = f"data set '{dataset.name}' has {', '.join(differ)}"
    if accept:
        warnings.warn(f"{message}; accepted because the split or the k-core is your own", stacklevel=3)
        return
    raise MmfastError(
        f"{message}; check the source files, or give the folder's path as data.name (or set data.split or data.k_core) "
        "to use it as it is"
    )


def card_of(name: str) -> tuple[str | None, Card | None]:
    """Return the built-in name behind a name or alias, and its card; None and None for another data set."""
    for known in DATASETS.names():
        card = DATASETS.get(known)()
        if name == known or name in card.aliases:
            return known, card
    return None, None


def _not_found(name: str, builtin: str | None, card: Card | None, base: Path) -> MmfastError:
    if card is not None:
        raw = f"{base}/{builtin}"
        return MmfastError(
            f"the files of data set '{builtin}' are not in '{base}'. Download {card.source}; put them into '{raw}/' "
            f"(or set MMFAST_DATA or data.root to the folder that holds '{builtin}/'). They are prepared on first use; "
            f"to do it once and keep the result: mmfast prepare {raw} {raw}-prepared"
        )
    folders = sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    known = [DEMO, *DATASETS.names(), *folders]
    return MmfastError(
        f"unknown data set '{name}': no built-in name, no folder in '{base}', no path.{suggest(name, known)} "
        f"Built in: {DEMO}, {', '.join(DATASETS.names())}; folders in '{base}': {', '.join(folders) or 'none'}"
    )


def core_of(format_name: str, k_core: int | None) -> int:
    """Return the k-core to apply: the one asked for, else the published one of the format (5 for raw Amazon files)."""
    return FORMATS[format_name].k_core if k_core is None else k_core
