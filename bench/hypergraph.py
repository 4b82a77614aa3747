"""Time of LGMRec's hypergraph products, beside the least bytes they move and the flops they take."""

from __future__ import annotations

import torch
from _cli import SIZES, parse, shape_parser, stream_facts
from _common import emit, measure, shapes

from mmfast.ops import hyperedges, hypergraph


def cases(name, count, width, facts):
    """Yield one layer over the users and items of one shape with `count` hyperedges, and its hyperedges alone."""
    shape = shapes[name]
    generator = torch.Generator().manual_seed(0)
    sizes = ((shape.num_users, count), (shape.num_items, count), (shape.num_items, width))
    users, items, z = (torch.randn(*s, generator=generator).to(facts["device"]) for s in sizes)
    users, items = users.softmax(1), items.softmax(1)
    square = torch.randn(1024, 1024, generator=generator).to(facts["device"])
    flops = 2 * count * width * (shape.num_users + 2 * shape.num_items)
    sized = facts | {
        "least_bytes": 4 * (users.numel() + 2 * items.numel() + 2 * z.numel() + shape.num_users * width),
        "least_flops": flops,
    }
    scaled = {"a square product of 1,024 (2.1 GFLOP)": lambda: square @ square}
    label = f"{name}, A = {count}"
    yield measure("hypergraph", label, "forward", lambda: hypergraph(users, items, z), scaled, **sized)
    sized = facts | {"least_bytes": 4 * (items.numel() + z.numel()), "least_flops": 2 * count * z.numel()}
    yield measure("hyperedges", label, "forward", lambda: hyperedges(items, z), scaled, **sized)


def main():
    """Measure the shapes named on the command line with few and with many hyperedges."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hyperedges", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--width", type=int, default=64)
    options = parse(parser)
    facts = stream_facts(options)
    for name in options.shapes:
        for count in options.hyperedges:
            for case in cases(name, count, options.width, facts):
                emit(case, options.json)


if __name__ == "__main__":
    main()
