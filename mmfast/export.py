"""What serving needs of a trained run: a FAISS index or plain vectors, with the original ids beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch

from mmfast.checkpoint import atomic_write
from mmfast.data.storage import save_npy
from mmfast.errors import MmfastError
from mmfast.evaluate import embed
from mmfast.recommend import model_and_data
from mmfast.run import Run

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset

NO_FAISS = (
    "export_index needs FAISS, which is not installed; install it with `pip install faiss-cpu`, "
    "or run `pip install -e .` in the clone of mmfast again"
)


def export_index(run_or_model: Run | torch.nn.Module, path: Path | str, *, dataset: Dataset | None = None) -> Path:
    """Write an exact inner-product FAISS index of all items to `path`, and row, id and title to `path`.items.parquet.

    Searching it with a user's vector gives that user's items by score, training items included. Returns `path`.
    Raises MmfastError when FAISS is not installed.

    >>> index = faiss.read_index(str(export_index(run, "items.faiss")))  # doctest: +SKIP
    """
    try:
        import faiss
    except ImportError:
        raise MmfastError(NO_FAISS) from None
    model, dataset = model_and_data(run_or_model, dataset)
    vectors = _as_array(embed(model)[1])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    path = Path(path)
    # FAISS writes files itself too, but tells a full disk as a RuntimeError.
    atomic_write(path, lambda work: work.write_bytes(faiss.serialize_index(index)))
    atomic_write(path.with_name(path.name + ".items.parquet"), _items(dataset).write_parquet)
    return path


def export_vectors(
    run_or_model: Run | torch.nn.Module,
    folder: Path | str,
    *,
    kind: str = "npy",
    dataset: Dataset | None = None,
) -> list[Path]:
    """Write user and item vectors below `folder` and return the files.

    kind "npy": users.npy [U, D] and items.npy [I, D], float32, with users.parquet and items.parquet (row, id);
    kind "parquet": the same two parquet files with a column `vector`. Raises MmfastError for another kind.
    """
    if kind not in ("npy", "parquet"):
        raise MmfastError(f"export: kind '{kind}' is unknown; choose npy or parquet")
    model, dataset = model_and_data(run_or_model, dataset)
    folder = Path(folder)
    users = pl.DataFrame({"row": np.arange(dataset.num_users), "id": dataset.user_ids})
    written = []
    for name, table, vectors in zip(("users", "items"), (users, _items(dataset)), embed(model), strict=True):
        array = _as_array(vectors)
        if kind == "npy":
            written.append(folder / f"{name}.npy")
            atomic_write(written[-1], lambda work, array=array: save_npy(work, array))
        else:
            table = table.with_columns(vector=array)
        written.append(folder / f"{name}.parquet")
        atomic_write(written[-1], table.write_parquet)
    return written


def _items(dataset: Dataset) -> pl.DataFrame:
    table = dataset.item_table()
    wanted = [column for column in ("id", "title") if column in table.columns]
    return table.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"), *wanted)


def _as_array(vectors: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.float().cpu().numpy())
