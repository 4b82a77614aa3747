"""Category of every item, from a column of the item table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmfast.errors import MmfastError, suggest

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset

DEFAULT_COLUMN = "category"


def item_categories(dataset: Dataset, column: str | None = None) -> np.ndarray:
    """Return the category number of every item, int64 [I]; items that name none share a number of their own.

    column: the column of the item table; None takes `category` where there is one, else one category for all items.
    Raises MmfastError for a named column that the table lacks.

    Example: `item_categories(dataset, "store")`
    """
    columns = dataset.item_table().columns if dataset.item_id_table is not None else []
    if (column or DEFAULT_COLUMN) not in columns:
        if column is not None:
            raise MmfastError(
                f"data set '{dataset.name}': the item table has no column '{column}'.{suggest(column, columns)} "
                f"It has: {', '.join(columns) or 'none'}"
            )
        return np.zeros(dataset.num_items, dtype=np.int64)
    names = dataset.item_table()[column or DEFAULT_COLUMN].cast(pl.String).fill_null("")
    return np.unique(names.to_numpy(), return_inverse=True)[1].astype(np.int64)
