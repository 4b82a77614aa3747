"""From what a reader returns to a prepared folder: repeats, k-core, split, cold users, features; all of it counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmfast.data.dataset import PARTS
from mmfast.data.kcore import k_core, renumber
from mmfast.data.prepared import part_sizes, write_prepared
from mmfast.data.raw import RawData
from mmfast.data.splits import USUAL_COLUMN, seed_of, split_rows
from mmfast.errors import MmfastError


@dataclass(frozen=True)
class Settings:
    """How to prepare: split rule ("auto": the labels the data carry, else mmrec), its seed, k-core, cold users.

    `split_seed` None is the rule's own; given with labels that the data carry it is an error.
    """

    split: str = "auto"
    split_seed: int | None = None
    k_core: int = 0
    cold_users: str = "drop"
    split_column: str = USUAL_COLUMN

    def __post_init__(self) -> None:
        seed_of(self.split, self.split_seed)
        if self.cold_users not in ("drop", "keep"):
            raise MmfastError(f"cold_users is '{self.cold_users}'; want drop or keep")
        if self.k_core < 0:
            raise MmfastError(f"k_core is {self.k_core}; want 0 (none) or more")


def build(
    raw: RawData,
    settings: Settings,
    folder: Path,
    *,
    name: str | None = None,
    source: dict[str, Any] | None = None,
    replace: bool = False,
    keep_existing: bool = False,
    stage: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the prepared folder of `raw`, return its path. Raises MmfastError when split, k-core or features fail."""
    dropped: dict[str, Any] = {"incomplete_rows": raw.incomplete_rows}
    stage("dropping repeated rows")
    rows = _without_repeats(raw.rows, dropped)
    stage(f"{settings.k_core}-core" if settings.k_core > 1 else "numbering users and items")
    rows, user_codes, item_codes = _core(raw, rows, settings.k_core, dropped)
    stage("splitting")
    rows, split = label_rows(rows, settings.split, settings.split_seed, raw.time_kind)
    if split["rule"] == "column" and settings.split_column != USUAL_COLUMN:
        split["column"] = settings.split_column
    rows = clean_parts(rows, settings.cold_users, dropped)
    stage("describing items")
    item_ids = raw.item_ids.gather(item_codes)
    items = raw.details(item_ids) if raw.details else pl.DataFrame({"id": item_ids})
    how = {"k_core": settings.k_core, "cold_users": settings.cold_users, "time": raw.time_kind}
    return write_prepared(
        folder,
        name=name or raw.name,
        rows=rows,
        users=pl.DataFrame({"id": raw.user_ids.gather(user_codes)}),
        items=items,
        features=raw.features,
        item_codes=item_codes,
        record={**how, "split": split, "dropped": dropped, "source": source or {}},
        replace=replace,
        keep_existing=keep_existing,
        stage=stage,
    )


def label_rows(
    rows: pl.DataFrame, rule: str, seed: int | None, time_kind: str | None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return rows with a `split` column under a rule, and the manifest's record of it; seed None is the rule's own.

    Rows are ordered by user, item and time first, so a random split depends on the content and not on the file order.
    """
    rule = rule.replace("_", "-")
    if rule == "column" and "split" not in rows.columns:
        raise MmfastError("split rule 'column': the data carry no split column; choose a rule such as mmrec")
    if rule == "auto":
        rule = "column" if "split" in rows.columns else "mmrec"
    if rule == "column":
        if seed is not None:
            raise MmfastError(
                f"the seed of the split is {seed} but the data carry their own split, which none changes; leave the "
                "seed (data.split_seed, --seed) out, or choose a rule such as mmrec"
            )
        return rows, {"rule": "column", "seed": None}
    if rule.partition(":")[0] == "time" and time_kind == "pos":
        raise MmfastError(
            f"split rule '{rule}' compares times between users, but 'pos' only orders the rows of one user; "
            "choose user-time or leave-one-out"
        )
    rows = rows.drop("split", strict=False)
    rows = rows.sort([c for c in ("user", "item", "time") if c in rows.columns])
    seed = seed_of(rule, seed)
    labels = split_rows(rows, rule, seed)
    return rows.with_columns(pl.Series("split", labels, pl.Int8)), {"rule": rule, "seed": seed}


def clean_parts(rows: pl.DataFrame, cold_users: str, dropped: dict[str, Any]) -> pl.DataFrame:
    """Drop pairs repeated inside a part and, with "drop", valid and test rows of users without a train row."""
    before = part_sizes(rows["split"])
    rows = rows.sort([c for c in ("split", "user", "item", "time") if c in rows.columns])
    split, user, item = (rows[c].to_numpy() for c in ("split", "user", "item"))
    again = np.zeros(rows.height, bool)
    again[1:] = (split[1:] == split[:-1]) & (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    rows = rows.filter(pl.Series(~again))
    unique = part_sizes(rows["split"])
    dropped["repeated_pairs"] = {part: before[part] - unique[part] for part in PARTS}
    if cold_users == "drop" and rows.height:
        warm = np.zeros(int(rows["user"].max()) + 1, bool)
        warm[rows["user"].filter(rows["split"] == 0).to_numpy()] = True
        rows = rows.filter(pl.Series(warm[rows["user"].to_numpy()]))
    left = part_sizes(rows["split"])
    dropped["cold_user_rows"] = {part: unique[part] - left[part] for part in PARTS[1:]}
    empty = [part for part in PARTS if not left[part]]
    if empty:
        raise MmfastError(
            f"the {' and '.join(empty)} part is empty after splitting {sum(before.values())} rows: {_sizes(before)}, "
            f"and without repeats and cold users {_sizes(left)}; choose another split rule or give more rows"
        )
    return rows


def _sizes(rows: dict[str, int]) -> str:
    return " / ".join(f"{number} {part}" for part, number in rows.items())


def _without_repeats(rows: pl.DataFrame, dropped: dict[str, Any]) -> pl.DataFrame:
    # A stable sort keeps the first of equal rows first, and the mask keeps the order of the file.
    columns = [c for c in ("user", "item", "time", "split") if c in rows.columns]
    values = [rows[c].to_numpy() for c in columns]
    order = np.lexsort(values[::-1])
    same = np.ones(max(0, rows.height - 1), bool)
    for value in values:
        ordered = value[order]
        same &= ordered[1:] == ordered[:-1]
    keep = np.ones(rows.height, bool)
    keep[order[1:][same]] = False
    dropped["repeated_rows"] = int((~keep).sum())
    return rows if keep.all() else rows.filter(pl.Series(keep))


def _core(
    raw: RawData, rows: pl.DataFrame, k: int, dropped: dict[str, Any]
) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Return (rows of the k-core, codes of the kept users, codes of the kept items); row r of codes is new id r."""
    if not rows.height:
        raise MmfastError("the source has no complete interaction; want rows with a user and an item")
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    mask = k_core(user, item, k)
    dropped["k_core_rows"] = int((~mask).sum())
    rows = rows.filter(pl.Series(mask)) if dropped["k_core_rows"] else rows
    codes = {}
    for kind, kept, ids in (("user", raw.kept_users, raw.user_ids), ("item", raw.kept_items, raw.item_ids)):
        new, old = renumber(rows[kind].to_numpy())
        thinned = k > 1 and len(old) < len(ids)
        if kept and not thinned:
            old = np.arange(len(ids))
        else:
            rows = rows.with_columns(pl.Series(kind, new, pl.Int32))
        dropped[f"{kind}s"] = len(ids) - len(old)
        codes[kind] = old
    return rows, codes["user"], codes["item"]
