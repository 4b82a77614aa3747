"""Small source files in the real formats, written by the tests."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl


def write_text(path, text):
    """Write text, compressed when the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def plain_rows(num_users=12, num_items=9, per_user=6):
    """Rows (user, item) in which every user has `per_user` items and all ids occur."""
    return [(user, (user + step) % num_items) for user in range(num_users) for step in range(per_user)]


def write_plain(folder, rows=None, labels=None, features=None, header="user,item"):
    """Write a plain folder: interactions.csv and `.npy` files; labels 0/1/2 add a split column."""
    rows = plain_rows() if rows is None else rows
    header = header + (",split" if labels is not None else "")
    lines = [",".join(map(str, row)) for row in rows]
    if labels is not None:
        lines = [f"{line},{label}" for line, label in zip(lines, labels, strict=True)]
    write_text(folder / "interactions.csv", "\n".join([header, *lines]) + "\n")
    for name, array in (features or {}).items():
        np.save(folder / f"{name}.npy", array)
    return folder


def numbered(rows, dim, dtype=np.float32):
    """A feature matrix whose row r holds r + 1 in every column."""
    return np.repeat(np.arange(1, rows + 1, dtype=dtype)[:, None], dim, axis=1)


def json_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def pairs(interactions):
    """The pairs of a part as a set."""
    return set(zip(interactions.users.tolist(), interactions.items.tolist(), strict=True))


def all_rows(dataset):
    """Every (user, item) of a data set by original ids, sorted."""
    rows = [pairs(dataset.part(part)) for part in ("train", "valid", "test")]
    return sorted((dataset.user_id(u), dataset.item_id(i)) for part in rows for u, i in part)


def frame(users, items, times=None):
    """Interaction rows as the split rules take them."""
    columns = {"user": pl.Series(users, dtype=pl.Int32), "item": pl.Series(items, dtype=pl.Int32)}
    if times is not None:
        columns["time"] = pl.Series(times, dtype=pl.Int64)
    return pl.DataFrame(columns)
