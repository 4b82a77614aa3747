"""compact_ids: the distinct ids of a batch, and every id renumbered to its place among them."""

from __future__ import annotations

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register


def compact_ids(ids: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (rows, index): rows int64 [R] sorted and unique, index int64 of the shape of ids, with rows[index] == ids.

    ids: int64, any shape, each in [0, num_rows). Costs O(number of ids + num_rows / 64), without sorting.
    Raises MmfastError for another dtype and on the meta device; an id outside the range is an error that names it.

    Example: `rows, index = compact_ids(torch.stack([users, num_users + pos, num_users + neg]), num_nodes)`
    """
    if ids.dtype != torch.int64:
        raise MmfastError(f"compact_ids: ids is {ids.dtype}; wanted int64")
    check_whole("compact_ids", num_rows=num_rows)
    if num_rows < 0:
        raise MmfastError(f"compact_ids: num_rows is {num_rows}; wanted 0 or more")
    if ids.is_meta:
        raise MmfastError("compact_ids: the number of rows depends on the ids, which a meta tensor does not hold")
    if not native("compact_ids", ids):
        return compact_ids_reference(ids, num_rows)
    return call_native("compact_ids", ids, num_rows)


def compact_ids_reference(ids: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `compact_ids` returns, in plain PyTorch."""
    rows, index = torch.unique(ids, return_inverse=True)
    if rows.numel() and (rows[0] < 0 or rows[-1] >= num_rows):
        raise MmfastError(f"compact_ids: ids run from {rows[0]} to {rows[-1]}; wanted 0 to {num_rows - 1}")
    return rows, index


def _fake(ids: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return ids.new_empty(size), ids.new_empty(ids.shape)


register("compact_ids", _fake)
