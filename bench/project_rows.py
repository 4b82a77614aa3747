"""project_rows and the gradient of its weight, for the rows that a batch takes from a wide table, against PyTorch.

Run from the repository: `python bench/project_rows.py [--shapes baby elec] [--width 4096] [--json]`.
"""

from __future__ import annotations

import torch
from _cli import SIZES, parse, shape_parser
from _common import emit, measure, shapes
from _gemm import add_flop_limit, gemm_flops

from mmfast.ops import project_rows


def cases(name, options, limit):
    """Yield the product and its gradient by the weight, for one shape's items."""
    generator = torch.Generator().manual_seed(0)
    count, width, outputs = shapes[name].num_items, options.width, options.outputs
    rows = torch.randperm(count, generator=generator)[: options.rows].sort().values
    features, weight, grad = (
        torch.randn(*shape, generator=generator).to(options.device)
        for shape in ((len(rows), width), (outputs, width), (len(rows), outputs))
    )
    rows = rows.to(options.device)
    table = torch.empty(count, width, device=options.device)  # on a CPU, only the rows that are read take up memory
    table[rows] = features
    ops = torch.ops.mmfast
    passes = {
        "forward": (lambda: project_rows(table, rows, weight), lambda: table[rows] @ weight.t()),
        "gradient of the weight": (lambda: ops.project_rows_weight(grad, table, rows), lambda: grad.t() @ table[rows]),
    }
    least = {
        "least_bytes": 4 * (len(rows) * (width + outputs) + outputs * width),
        "least_flops": 2 * len(rows) * width * outputs,
    }
    for kind, (ours, theirs) in passes.items():
        label = f"{name} {len(rows)} of {count} x {width}, {outputs} outputs"
        facts = least | {"device": options.device, "repeat": options.repeat}
        yield add_flop_limit(measure("project_rows", label, kind, ours, {"torch": theirs}, **facts), limit)


def main():
    """Measure feature tables of the items of the named shapes."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--outputs", type=int, default=64)
    parser.add_argument("--rows", type=int, default=2600, help="of a batch, as FREEDOM's of 2,048 triples at Baby")
    options = parse(parser)
    limit = gemm_flops(device=options.device)
    for name in options.shapes:
        for case in cases(name, options, limit):
            emit(case, options.json)


if __name__ == "__main__":
    main()
