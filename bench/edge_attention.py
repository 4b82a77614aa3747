"""Time and memory of attention over a graph's edges, forward and with its gradient, against eager PyTorch."""

from __future__ import annotations

import torch
from _cli import parse, shape_parser, stream_facts
from _common import emit, measure, power_law_graph, shapes

from mmfast.ops import Edges, edge_attention, edge_gather, edge_softmax
from mmfast.ops.edge_attention import edge_attention_reference
from mmfast.ops.edge_softmax import edge_softmax_reference


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


def cases(name, width, facts):
    """Yield the measured cases of one shape."""
    edges = Edges.of(power_law_graph(shapes[name], facts["device"]).csr)
    generator = torch.Generator().manual_seed(1)
    x = torch.nn.functional.normalize(torch.randn(edges.num_rows, width, generator=generator))
    x = x.to(facts["device"]).requires_grad_()
    count, fixed = edges.cols.numel(), x.detach()
    index = 4 * count + 8 * edges.num_rows
    one = facts | {"least_bytes": 2 * x.nbytes + index + 4 * count, "least_flops": 4 * count * width}
    both = facts | {"least_bytes": one["least_bytes"] + 5 * x.nbytes + 8 * index, "least_flops": 14 * count * width}

    others = {"eager PyTorch": lambda: edge_attention_reference(edges, fixed, fixed, fixed)}
    yield measure("edge_attention", name, "forward", lambda: edge_attention(edges, fixed, fixed, fixed), others, **one)
    others = {"eager PyTorch": stepping(edge_attention_reference, edges, x)}
    yield measure("edge_attention", name, "forward+backward", stepping(edge_attention, edges, x), others, **both)

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


def main():
    """Measure the graphs of the shapes named on the command line."""
    parser = shape_parser(__doc__, ["baby", "elec"], repeat=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    options = parse(parser)
    facts = stream_facts(options)
    for name in options.shapes:
        for case in cases(name, options.width, facts):
            emit(case, options.json)


if __name__ == "__main__":
    main()
