"""CSR: the sparse operator that the graph ops take."""

from __future__ import annotations

from typing import NamedTuple

import torch


class CSR(NamedTuple):
    """A sparse operator by rows; entry e of row r has the value `values[e] * row_scale[r] * col_scale[cols[e]]`.

    ptr: int64 [R + 1]; cols: int32 [E], each below the number of columns C. values float [E], row_scale float [R] and
    col_scale float [C]: None stands for ones.
    """

    ptr: torch.Tensor
    cols: torch.Tensor
    values: torch.Tensor | None = None
    row_scale: torch.Tensor | None = None
    col_scale: torch.Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows R."""
        return self.ptr.numel() - 1

    @property
    def num_entries(self) -> int:
        """Number of stored entries E."""
        return self.cols.numel()

    def rows(self) -> torch.Tensor:
        """Return the row of every entry, int64 [E]."""
        return torch.repeat_interleave(torch.arange(self.num_rows, device=self.ptr.device), self.ptr.diff())

    def entries(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the value of every entry, [E], scales applied."""
        values = torch.ones(self.num_entries, dtype=dtype, device=self.cols.device)
        if self.values is not None:
            values = values * self.values.to(dtype)
        if self.row_scale is not None:
            values = values * self.row_scale.to(dtype)[self.rows()]
        if self.col_scale is not None:
            values = values * self.col_scale.to(dtype)[self.cols.long()]
        return values

    def block(self, first: int, last: int) -> CSR:
        """Return rows [first, last) as an operator of their own, over the same columns: the part of one rank."""
        begin, end = int(self.ptr[first]), int(self.ptr[last])
        return CSR(
            self.ptr[first : last + 1] - begin,
            self.cols[begin:end],
            None if self.values is None else self.values[begin:end],
            None if self.row_scale is None else self.row_scale[first:last],
            self.col_scale,
        )
