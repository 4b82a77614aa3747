"""Random operators, tables and rows for the tests of the graph ops."""

import torch

from mmfast.ops._backend import use_backend
from mmfast.ops.csr import CSR
from tests.accuracy import assert_at_most_twice


def operator(num_nodes, num_entries, dtype=torch.float64, seed=0, values=True, scales=True, num_cols=None):
    """A random operator and its transpose; some rows are empty, some entries repeat."""
    generator = torch.Generator().manual_seed(seed)
    num_cols = num_cols or num_nodes
    row = torch.randint(0, max(1, num_nodes - num_nodes // 5), (num_entries,), generator=generator)
    col = torch.randint(0, num_cols, (num_entries,), generator=generator)
    value = torch.randn(num_entries, dtype=torch.float64, generator=generator).to(dtype)
    row_scale = torch.rand(num_nodes, dtype=torch.float64, generator=generator).to(dtype) if scales else None
    col_scale = torch.rand(num_cols, dtype=torch.float64, generator=generator).to(dtype) if scales else None

    def build(row, col, num_rows, num_cols):
        order = torch.argsort(row * num_cols + col, stable=True)
        ptr = torch.zeros(num_rows + 1, dtype=torch.int64)
        ptr[1:] = torch.bincount(row, minlength=num_rows).cumsum(0)
        return ptr, col[order].int(), value[order] if values else None

    csr = CSR(*build(row, col, num_nodes, num_cols), row_scale, col_scale)
    return csr, CSR(*build(col, row, num_cols, num_nodes), col_scale, row_scale)


def to(csr, dtype, swap=None):
    values = None if csr.values is None else csr.values.to(dtype)
    scales = (swap.col_scale, swap.row_scale) if swap else [s if s is None else s.to(dtype) for s in csr[3:]]
    return CSR(csr.ptr, csr.cols, values, *scales)


def assert_exact(run, csr, transpose, x):
    """The tensors of run(csr, transpose, x) are exact in float64; in float32 at most twice as wrong as PyTorch's."""
    single = to(csr, torch.float32)
    pair = single, to(transpose, torch.float32, swap=single)
    with use_backend("reference"):
        exact, torch_32 = run(csr, transpose, x), run(*pair, x.float())
    for ours, want in zip(run(csr, transpose, x), exact, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-12, atol=1e-12 * max(1, want.abs().max().item()))
    for ours, theirs, want in zip(run(*pair, x.float()), torch_32, exact, strict=True):
        assert_at_most_twice(ours, theirs, want)


def table(num_nodes, width, seed=1):
    return torch.randn(num_nodes, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_rows(num_nodes):
    return torch.arange(num_nodes)[:: 3 if num_nodes > 3 else 1]
