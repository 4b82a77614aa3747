"""Recommendations and similar items of a trained model, in the user's own ids."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F

from mmfast.data.readers.tables import read_table
from mmfast.errors import MmfastError, suggest
from mmfast.evaluate import Rows, embed, user_rows
from mmfast.ops.rank import rank
from mmfast.run import Run
from mmfast.verbs import VerbModule

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset

BLOCK_USERS = 1024
sys.modules[__name__].__class__ = VerbModule


def recommend(
    run_or_model: Run | torch.nn.Module,
    users: Sequence[str],
    k: int = 10,
    *,
    dataset: Dataset | None = None,
    exclude_seen: bool = True,
) -> pl.DataFrame:
    """Return the k best items of every user: columns user, rank (from 1), item, title ("" if unknown), score.

    `users` are original ids, in any order. Items the user has in training are never recommended unless `exclude_seen`
    is False. A model needs the `dataset` it was trained on. Raises MmfastError for unknown ids and k not in 1 to I.

    >>> recommend(mmfast.load("runs/quick"), ["A1", "A7"], k=3)  # doctest: +SKIP
    """
    model, dataset = model_and_data(run_or_model, dataset)
    _check_k(k, dataset.num_items)
    index = dataset.users_to_index(users)
    user_vectors, item_vectors = embed(model)
    seen = user_rows(dataset, "train", index) if exclude_seen else no_rows(len(index))
    top, scores = top_items(user_vectors, item_vectors, index, seen, k)
    return _table(dataset, "user", list(users), "item", top, scores)


def similar_items(
    run_or_model: Run | torch.nn.Module, items: Sequence[str], k: int = 10, *, dataset: Dataset | None = None
) -> pl.DataFrame:
    """Return the k items nearest to each item by the cosine of their vectors: item, rank, similar, title, score.

    `items` are original ids; an item is not similar to itself. Raises MmfastError for unknown ids and k not in
    1 to I - 1.
    """
    model, dataset = model_and_data(run_or_model, dataset)
    _check_k(k, dataset.num_items - 1)
    index = dataset.items_to_index(items)
    vectors = F.normalize(embed(model)[1].float(), dim=1)
    itself = Rows(np.arange(len(index) + 1), index.astype(np.int32))
    top, scores = top_items(vectors, vectors, index, itself, k)
    return _table(dataset, "item", list(items), "similar", top, scores)


def top_items(
    query_vectors: torch.Tensor, item_vectors: torch.Tensor, queries: np.ndarray, mask: Rows, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (items int32 [Q, k], scores [Q, k]) of the rows `queries` of `query_vectors`, best first; k <= I.

    `mask` lists per query the items to leave out; places without a candidate are -1 and -inf.
    """
    device = item_vectors.device
    nothing = no_rows(BLOCK_USERS)
    tops, scores = [np.zeros((0, k), np.int32)], [np.zeros((0, k), np.float32)]
    for start in range(0, len(queries), BLOCK_USERS):
        stop = min(start + BLOCK_USERS, len(queries))
        block = query_vectors[torch.as_tensor(queries[start:stop], device=device)]
        targets = nothing.block(0, stop - start, device)
        top, score, _ = rank(block, item_vectors, *mask.block(start, stop, device), *targets, k)
        tops.append(top.cpu().numpy())
        scores.append(score.cpu().numpy())
    return np.concatenate(tops), np.concatenate(scores)


def no_rows(count: int) -> Rows:
    """Return `count` empty item lists."""
    return Rows(np.zeros(count + 1, np.int64), np.zeros(0, np.int32))


def model_and_data(run_or_model: Run | torch.nn.Module, dataset: Dataset | None) -> tuple[torch.nn.Module, Dataset]:
    """Return the model and data set of a run, or of a model with its data set."""
    if isinstance(run_or_model, Run):
        return run_or_model.model, dataset if dataset is not None else run_or_model.dataset
    if dataset is None:
        raise MmfastError(f"got a {type(run_or_model).__name__} without data; pass dataset=..., or a Run (mmfast.load)")
    return run_or_model, dataset


def read_ids(path: Path | str, column: str = "user") -> list[str]:
    """Return the ids in a file: .txt, one a line; .csv or .parquet, in the column called `column`, or the only one.

    Raises MmfastError for a missing or damaged file, another kind of file, or a table without that column.
    """
    path = Path(path)
    if not path.is_file():
        near = suggest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise MmfastError(f"file of {column} ids '{path}' does not exist.{near} Give a .txt, .csv or .parquet file")
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MmfastError(f"file of {column} ids '{path}' cannot be read ({error}); check it") from None
        return [line.strip() for line in lines if line.strip()]
    if path.suffix not in (".csv", ".parquet"):
        raise MmfastError(f"file of {column} ids '{path}': '{path.suffix}' is not known; give .txt, .csv or .parquet")
    table = read_table(path)
    if column not in table.columns and table.width != 1:
        names = ", ".join(table.columns)
        raise MmfastError(f"file '{path}' has the columns {names}; name the one with the ids '{column}'")
    return table[column if column in table.columns else table.columns[0]].cast(pl.String).drop_nulls().to_list()


def _table(
    dataset: Dataset, query: str, query_ids: list[str], answer: str, top: np.ndarray, scores: np.ndarray
) -> pl.DataFrame:
    place, column = np.nonzero(top >= 0)
    items = top[place, column]
    table = dataset.item_table()
    titles = table["title"].gather(items).fill_null("") if "title" in table.columns else pl.Series([""] * len(items))
    columns: dict[str, Any] = {
        query: pl.Series([str(i) for i in query_ids], dtype=pl.String).gather(place),
        "rank": (column + 1).astype(np.int32),
        answer: dataset.item_ids.gather(items),
        "title": titles,
        "score": scores[place, column],
    }
    return pl.DataFrame(columns)


def _check_k(k: int, most: int) -> None:
    if not isinstance(k, (int, np.integer)):
        raise MmfastError(f"k: got {k!r}; give a whole number, 1 to {most}")
    if not 1 <= k <= most:
        raise MmfastError(f"k: got {k}, but there are {most} items to choose from; ask for 1 to {most}")


if __name__ == "__main__":
    from mmfast.cli import main

    sys.exit(main(["recommend", *sys.argv[1:]]))
