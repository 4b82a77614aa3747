"""Edges: a graph's entries by row and by column, what the ops on edges take."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mmfast.errors import MmfastError
from mmfast.ops.csr import CSR


class Edges(NamedTuple):
    """Directed edges: entry e of row r, ptr[r] <= e < ptr[r + 1], carries a message from node cols[e] to node r.

    ptr: int64 [R + 1]; cols: int32 [E] in [0, C). The same entries by column: the t-th of column c, ptr_t[c] <= t <
    ptr_t[c + 1], lies in row rows_t[t] and is entry edges_t[t]; ptr_t: int64 [C + 1], rows_t and edges_t: int32 [E].
    """

    ptr: torch.Tensor
    cols: torch.Tensor
    ptr_t: torch.Tensor
    rows_t: torch.Tensor
    edges_t: torch.Tensor

    @classmethod
    def of(cls, csr: CSR, num_cols: int | None = None) -> Edges:
        """Return the edges of a graph with C = `num_cols` columns (None: as many as rows); its values play no part.

        Raises MmfastError for columns outside the graph or 2^31 entries and more.

        Example: `edges = Edges.of(graph.csr)`
        """
        size = csr.num_rows if num_cols is None else num_cols
        if csr.num_entries >= 2**31:
            raise MmfastError(f"Edges: there are {csr.num_entries} entries; wanted less than 2^31")
        if csr.num_entries and not 0 <= int(csr.cols.min()) <= int(csr.cols.max()) < size:
            raise MmfastError(
                f"Edges: columns run from {int(csr.cols.min())} to {int(csr.cols.max())}; wanted 0 to {size - 1}"
            )
        edges_t = torch.argsort(csr.cols, stable=True)
        ptr_t = csr.ptr.new_zeros(size + 1)
        torch.cumsum(torch.bincount(csr.cols, minlength=size), 0, out=ptr_t[1:])
        return cls(csr.ptr, csr.cols, ptr_t, csr.rows()[edges_t].int(), edges_t.int())

    @property
    def num_rows(self) -> int:
        """Number of rows R, the nodes that messages go to."""
        return self.ptr.numel() - 1

    @property
    def num_cols(self) -> int:
        """Number of columns C, the nodes that messages come from."""
        return self.ptr_t.numel() - 1

    def operator(self, values: torch.Tensor) -> tuple[CSR, CSR]:
        """Return the operator with these values [E], and its transpose: what `propagate` takes.

        Raises MmfastError for values on another device.
        """
        if values.device != self.edges_t.device:
            raise MmfastError(
                f"Edges: values is on {values.device}, edges_t on {self.edges_t.device}; move both to one device"
            )
        csr = CSR(self.ptr, self.cols, values)
        return csr, CSR(self.ptr_t, self.rows_t, values.detach()[self.edges_t])
