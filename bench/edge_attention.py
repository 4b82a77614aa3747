"""Time and memory of attention over a graph's edges, forward and with its gradient, against eager PyTorch."""

from __future__ import annotations

import itertools

import torch
from _cli import SIZES, parse, shape_parser, stream_facts
from _common import emit, leave_out, measure, power_law_graph, shapes

from mmfast.ops import Edges, edge_attention, edge_gather, edge_softmax, edge_sum
from mmfast.ops.edge_attention import edge_attention_reference
from mmfast.ops.edge_softmax import edge_softmax_reference

EAGER_BYTES = 1 << 30
"""Eager PyTorch is left out where one number's row an edge is more: it makes some ten such tables."""


def stepping(attention, edges, x):
    """Attention of x over itself (GRCN), its results' gradients, and the gradient of x."""
    grad_out, grad_alpha = torch.randn_like(x), torch.randn(edges.cols.numel(), device=x.device)

    def run():
        x.grad = None
        out, alpha = attention(edges, x, x, x)
        torch.autograd.backward((out, alpha), (grad_out, grad_alpha))

    return run


def gathering(gather, table):
    def run():
        table.grad = None
        out = gather(table)
        out.backward(torch.ones_like(out))

    return run


def wide_cases(name, edges, width, facts):
    """Yield attention over the edges of one shape."""
    generator = torch.Generator().manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(edges.num_rows, width, generator=generator))
    x = x.to(facts["device"]).requires_grad_()
    count, fixed = edges.cols.numel(), x.detach()
    index = 4 * count + 8 * edges.num_rows
    one = facts | {"least_bytes": 2 * x.nbytes + index + 4 * count, "least_flops": 4 * count * width}
    both = facts | {"least_bytes": one["least_bytes"] + 5 * x.nbytes + 8 * index, "least_flops": 14 * count * width}

    eager = {
        "forward": {"eager PyTorch": lambda: edge_attention_reference(edges, fixed, fixed, fixed)},
        "forward+backward": {"eager PyTorch": stepping(edge_attention_reference, edges, x)},
    }
    if 4 * count * width > EAGER_BYTES:
        leave_out(f"edge_attention {name}, eager PyTorch", f"it makes tables of {count} x {width} numbers")
        eager = {kind: {} for kind in eager}
    passes = {
        "forward": (lambda: edge_attention(edges, fixed, fixed, fixed), one),
        "forward+backward": (stepping(edge_attention, edges, x), both),
    }
    for kind, (ours, sized) in passes.items():
        yield measure("edge_attention", name, kind, ours, eager[kind], **sized)


def narrow_cases(name, edges, facts):
    """Yield the ops on one or two numbers a node or edge."""
    count, generator = edges.cols.numel(), torch.Generator().manual_seed(1)
    index = 4 * count + 8 * edges.num_rows
    logits = torch.randn(count, generator=generator).to(facts["device"])
    others = {"eager PyTorch": lambda: edge_softmax_reference(edges.ptr, logits)}
    small = facts | {"least_bytes": 2 * logits.nbytes + 8 * edges.num_rows}
    yield measure("edge_softmax", name, "forward", lambda: edge_softmax(edges.ptr, logits), others, **small)

    table = torch.randn(edges.num_cols, 2, generator=generator).to(facts["device"]).requires_grad_()
    cols = edges.cols.long()
    small = facts | {"least_bytes": 4 * table.nbytes + 4 * 4 * count + 2 * index}
    ours = gathering(lambda t: edge_gather(edges, t), table)
    others = {"eager PyTorch": gathering(lambda t: t[cols], table)}
    yield measure("edge_gather", name, "forward+backward", ours, others, **small)

    values = torch.randn(count, 2, generator=generator).to(facts["device"]).requires_grad_()
    ours = gathering(lambda v: edge_sum(edges, v), values)
    others = {"eager PyTorch": gathering(lambda v: torch.zeros_like(table).index_add(0, cols, v), values)}
    yield measure("edge_sum", name, "forward+backward", ours, others, **small)


def main():
    """Measure the graphs of the shapes named on the command line."""
    parser = shape_parser(__doc__, SIZES, repeat=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    options = parse(parser)
    facts = stream_facts(options)
    for name in options.shapes:
        edges = Edges.of(power_law_graph(shapes[name], options.device).csr)
        for case in itertools.chain(wide_cases(name, edges, options.width, facts), narrow_cases(name, edges, facts)):
            emit(case, options.json)


if __name__ == "__main__":
    main()
