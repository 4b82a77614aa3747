"""Time of propagation forward and backward, one layer and three, against torch's and scipy's sparse products."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from _cli import SIZES, parse, shape_parser
from _common import bandwidths, emit, leave_out, measure, power_law_graph, shapes, stream_bandwidth

from mmfast.graph import keep_edges, subgraph
from mmfast.ops.compact_ids import compact_ids
from mmfast.ops.csr import CSR
from mmfast.ops.propagate import propagate, propagate_rows

LAYERS = 3
HALF_COO_ENTRIES = 10_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_matrices(csr, dtype):
    """The same operator as torch CSR with int32 indices and as coalesced COO, by name; COO alone for half tables."""
    if dtype != torch.float32 and csr.num_entries > HALF_COO_ENTRIES:
        leave_out(f"torch COO, {csr.num_entries} entries, {dtype}", "its products of half tables take minutes")
        return {}
    size = (csr.num_rows, csr.num_rows)
    values = csr.entries(torch.float32).to(dtype)
    index = torch.stack([csr.rows(), csr.cols.long()])
    coo = torch.sparse_coo_tensor(index, values, size, check_invariants=False).coalesce()
    if dtype != torch.float32:
        return {"torch COO": coo}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout a beta
        by_rows = torch.sparse_csr_tensor(csr.ptr.int(), csr.cols, values, size, check_invariants=False)
    return {"torch CSR int32": by_rows, "torch COO": coo}


def scipy_product(csr, x):
    """scipy's product, where scipy is installed and the table is float32 on the CPU."""
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        return {}
    if x.is_cuda or x.dtype != torch.float32:
        return {}
    values, ptr = csr.entries(torch.float32).numpy(), csr.ptr.numpy().astype(np.int32)
    matrix, array = csr_matrix((values, csr.cols.numpy(), ptr), shape=(csr.num_rows,) * 2), x.numpy()
    return {"scipy CSR": lambda: matrix @ array}


def forward_backward(product, x, rows=None):
    """A function that computes product(), or its `rows`, and its gradient in x."""
    grad = torch.ones_like(product() if rows is None else x[rows])

    def run():
        out = product()
        return torch.autograd.grad(out if rows is None or len(out) == len(rows) else out[rows], x, grad)

    return run


def backward(product, x):
    """A function that computes the gradient alone."""
    out = product()
    grad = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, x, grad, retain_graph=True)


def by_degrees(csr):
    """The same operator from degree vectors, without stored values."""
    scale = (csr.ptr.diff() + 1e-7).rsqrt().float()
    return CSR(csr.ptr, csr.cols, None, scale, scale)


def bounds(num_bytes, facts):
    """The seconds in which memory gives a row for every entry: at its limit, and as fast as a triad."""
    seen = bandwidths(facts["device"], 1 << 27, facts["clock"], repeat=3)
    rates = {"the memory's limit": max(seen.values()), "a triad's speed": seen["triad"]}
    return {f"every entry's row at {name}": num_bytes / rate for name, rate in rates.items()}


def one_layer(name, csr, x, facts):
    """Yield forward, backward and both, of one product."""
    products = {other: (lambda m=m: m @ x) for other, m in torch_matrices(csr, x.dtype).items()}
    degrees = by_degrees(csr)
    products["ours from degrees"] = lambda: propagate(degrees, degrees, x, 1, "last")
    if x.dtype != torch.float32:
        wide = x.detach().float().requires_grad_()
        products["ours float32"] = lambda: propagate(csr, csr, wide, 1, "last")
    tables = {other: wide if other == "ours float32" else x for other in products}

    def ours():
        return propagate(csr, csr, x, 1, "last")

    table, gathered = x.nbytes, csr.num_entries * x.shape[1] * x.element_size()
    index = (csr.num_rows + 1) * 8 + csr.num_entries * 8
    passes = {
        "forward": (1, ours, products | scipy_product(csr, x.detach())),
        "backward": (1, backward(ours, x), {o: backward(p, tables[o]) for o, p in products.items()}),
        "forward+backward": (
            2,
            forward_backward(ours, x),
            {o: forward_backward(p, tables[o]) for o, p in products.items()},
        ),
    }
    for kind, (number, fn, others) in passes.items():
        yield measure(
            "propagate",
            name,
            kind,
            fn,
            others,
            least_bytes=number * (2 * table + index),
            least_flops=number * 2 * csr.num_entries * x.shape[1],
            bounds=bounds(number * gathered, facts),
            **facts,
        )


def batch_of_layers(name, csr, x, rows, facts):
    """Yield a training step's use: three layers, read out at the rows of one batch, and the gradient."""

    def by_hand(matrix):
        layer, total = x, x
        for _ in range(LAYERS):
            layer = matrix @ layer
            total = total + layer
        return total / (LAYERS + 1)

    matrices = torch_matrices(csr, x.dtype)
    others = {other: forward_backward(lambda m=m: by_hand(m), x, rows) for other, m in matrices.items()}
    others["ours, all rows"] = forward_backward(lambda: propagate(csr, csr, x, LAYERS), x, rows)
    ours = forward_backward(lambda: propagate_rows(csr, csr, x, rows, LAYERS)[0], x)
    reached = reach(csr, rows)
    row_bytes, entries = x.shape[1] * x.element_size(), sum(number for _, number in reached[:-1])
    written, read = (sum(nodes for nodes, _ in part) for part in (reached[:-1], reached[1:]))
    least = {  # forward, and back with a row for every node at the end
        "least_bytes": 2 * ((written + read) * row_bytes + 8 * (written + entries)) + x.nbytes,
        "least_flops": 4 * entries * x.shape[1],
    }
    yield measure("propagate", name, f"forward+backward, {LAYERS} layers, a batch", ours, others, **facts, **least)


def reach(csr, rows):
    """Return (nodes, their entries) that each layer is needed at, from the last one to the table itself."""
    degrees, reached = csr.ptr.diff(), []
    for _ in range(LAYERS + 1):
        reached.append((len(rows), int(degrees[rows].sum())))
        chosen = torch.zeros(csr.num_rows, dtype=torch.bool, device=rows.device).index_fill_(0, rows, True)
        rows = csr.cols[chosen.repeat_interleave(degrees)].long().unique()
    return reached


def cases(name, options, limit):
    """Yield the measured cases of one shape."""
    shape = shapes[name]
    graph = power_law_graph(shape)
    csr = graph.to(options.device).csr
    fifth = subgraph(graph, keep_edges(graph, 0.8, 1)).to(options.device).csr  # as FREEDOM trains
    generator = torch.Generator().manual_seed(1)
    edges = torch.randint(0, shape.num_edges, (options.batch,), generator=generator).to(options.device)
    negatives = torch.randint(shape.num_users, shape.num_nodes, (options.batch,), generator=generator).to(
        options.device
    )
    rows, _ = compact_ids(torch.cat([csr.rows()[edges], csr.cols[edges].long(), negatives]), csr.num_rows)
    table = torch.randn(csr.num_rows, options.width, generator=generator).to(options.device)
    facts = {"device": options.device, "limit": limit, "repeat": options.repeat, "clock": options.clock}
    for dtype in options.dtypes:
        x = table.to(DTYPES[dtype]).requires_grad_()
        case = f"{name} {dtype}"
        yield from one_layer(case, csr, x, facts)
        yield from batch_of_layers(case, csr, x, rows, facts)
        yield from batch_of_layers(f"{case}, a fifth of the edges", fifth, x, rows, facts)


def main():
    """Measure the shapes named on the command line."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a busy machine, one thread")
    options = parse(parser)
    limit = stream_bandwidth(options.device, clock=options.clock)
    for name in options.shapes:
        for case in cases(name, options, limit):
            emit(case, options.json)


if __name__ == "__main__":
    main()
