"""Time of propagation with learned edge values, and of several tables side by side, against torch and plain calls.

`values` is one product with the gradients of the table and of every edge's value. `stacked` is three layers over
[N, T, D], T masked variants of a table, against T calls. Run: `python bench/propagate_forms.py [--shapes elec]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from _cli import SIZES, parse, shape_parser
from _common import emit, leave_out, measure, power_law_graph, shapes, stream_bandwidth
from _losses import stepping
from propagate import torch_matrices

from mmfast.ops import CSR, Edges, propagate

LAYERS = 3
DENSE_BYTES = 4 << 30
"""The gradient of a sparse matrix's values goes through a dense matrix in torch: left out where that is larger."""

STACKED_BYTES = 1 << 30


def values_case(name: str, csr: CSR, x: torch.Tensor, facts: dict) -> dict:
    """Measure one product with edge values, and both gradients."""
    edges, values = Edges.of(csr), csr.entries(torch.float32)
    rows, cols, width = csr.rows(), csr.cols.long(), x.shape[1]
    index, size = torch.stack([rows, cols]), (csr.num_rows,) * 2

    def ours(x, values):
        return propagate(*edges.operator(values), x, 1, "last")

    def coo(x, values):
        matrix = torch.sparse_coo_tensor(index, values, size, is_coalesced=True, check_invariants=False)
        return torch.sparse.mm(matrix, x)

    def gather_and_add(x, values):
        return torch.zeros_like(x).index_add(0, rows, values[:, None] * x[cols])

    ways = {"torch COO": (coo, 4 * csr.num_rows**2), "gather and index_add": (gather_and_add, 8 * len(cols) * width)}
    others = {}
    for way, (fn, held) in ways.items():
        if held > DENSE_BYTES:
            leave_out(f"propagate {name}, values, {way}", f"it holds {held / 2**30:.0f} GiB at once")
        else:
            others[way] = stepping(fn, (x, values))
    entries = len(cols) * (4 + 4)  # columns and values
    # x and the result; the gradient and x's; both again and the values' gradient
    least = {"least_bytes": 6 * x.nbytes + 3 * entries + 4 * len(cols), "least_flops": 3 * 2 * len(cols) * width}
    return measure(
        "propagate", f"{name}, values", "forward+backward", stepping(ours, (x, values)), others, **facts, **least
    )


def stacked_case(name: str, csr: CSR, tables: int, width: int, facts: dict) -> dict:
    """Measure three layers over several tables at once."""
    shape = csr.num_rows, tables, width
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(facts["device"])
    apart = [x[:, number].contiguous() for number in range(tables)]

    def in_layers(product, x):
        layer = total = x
        for _ in range(LAYERS):
            layer = product(layer)
            total = total + layer
        return total / (LAYERS + 1)

    matrix = next(iter(torch_matrices(csr, x.dtype).values()))
    flat = x.flatten(1)
    separate = [stepping(lambda x: propagate(csr, csr, x, LAYERS), (table,)) for table in apart]
    others = {
        f"ours, {tables} calls": lambda: [step() for step in separate],
        "torch CSR int32, side by side": stepping(lambda x: in_layers(matrix.__matmul__, x), (flat,)),
    }
    index = (csr.num_rows + 1) * 8 + csr.num_entries * 8
    least = {
        "least_bytes": 2 * LAYERS * (2 * x.nbytes + index),
        "least_flops": 4 * LAYERS * csr.num_entries * tables * width,
    }
    ours = stepping(lambda x: propagate(csr, csr, x, LAYERS), (x,))
    kind = f"forward+backward, {LAYERS} layers"
    return measure("propagate", f"{name}, stacked {tables} x {width}", kind, ours, others, **facts, **least)


def cases(name: str, options, facts: dict) -> Iterator[dict]:
    """Yield both forms at one shape."""
    csr = power_law_graph(shapes[name], options.device).csr
    x = torch.randn(csr.num_rows, options.width, generator=torch.Generator().manual_seed(1)).to(options.device)
    yield values_case(name, csr, x, facts)
    if options.tables * x.nbytes > STACKED_BYTES:
        leave_out(f"propagate {name}, stacked", "torch keeps ten such tables for its gradient")
    else:
        yield stacked_case(name, csr, options.tables, options.width, facts)


def main() -> None:
    """Measure the shapes named on the command line."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tables", type=int, default=3)
    options = parse(parser)
    facts = {"device": options.device, "limit": stream_bandwidth(options.device), "repeat": options.repeat}
    for name in options.shapes:
        for case in cases(name, options, facts):
            emit(case, options.json)


if __name__ == "__main__":
    main()
