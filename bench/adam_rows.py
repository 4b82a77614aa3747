"""Time of one exact Adam step on a table of which a batch touched a few rows, against torch with a dense gradient.

`step` makes the step of every row at once; `lazy step` reads the rows of a batch, which makes up what they missed, and
steps them alone. torch's Adam is beside them with the making of its dense gradient, and with a gradient at hand.
SparseAdam is there for its time: it drops the steps that a row misses and ends elsewhere.
Run from the repository: `python bench/adam_rows.py [--shapes elec] [--rows 20000] [--json]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from _adam import AdamTable, in_turn
from _cli import SIZES, parse, shape_parser, stream_facts
from _common import emit, leave_out, measure, shapes

BATCHES = 64
"""Batches that are drawn once and used in turn; as many steps are made before the first is measured."""
TABLE_BYTES = 3 << 30
"""A larger table is left out: with its moments, a dense gradient and its making it takes five times this."""


class Case(AdamTable):
    """A table, batches of touched rows, and the ways to step it."""

    def __init__(self, num_rows: int, width: int, touched: int, device: str) -> None:
        super().__init__(num_rows, width, device)
        generator = torch.Generator().manual_seed(1)
        self.grad = (1e-3 * torch.randn(min(touched, num_rows), width, generator=generator)).to(device)
        batches = [torch.randperm(num_rows, generator=generator)[:touched].sort()[0] for _ in range(BATCHES)]
        self.next_rows = in_turn(rows.to(device) for rows in batches)

    def eager(self) -> None:
        """Step every row."""
        self.step_all(self.next_rows(), self.grad)

    def lazy(self) -> None:
        """Read the rows of a batch and step them."""
        rows = self.next_rows()
        self.catch_up(rows)
        self.step_rows(rows, self.grad)

    def torch_adam(self, at_hand: bool = False, **form: bool) -> Callable[[], None]:
        """Return a step of torch.optim.Adam; its dense gradient is made anew unless one is at hand."""
        table, step = self.optimizer(torch.optim.Adam, **form)
        if at_hand:
            table.grad = torch.zeros_like(table).index_copy_(0, self.next_rows(), self.grad)

        def run() -> None:
            if not at_hand:
                table.grad = torch.zeros_like(table).index_copy_(0, self.next_rows(), self.grad)
            step()

        return run

    def sparse_adam(self) -> Callable[[], None]:
        """Return a step of torch.optim.SparseAdam."""
        table, step = self.optimizer(torch.optim.SparseAdam)

        def run() -> None:
            rows = self.next_rows()[None]
            table.grad = torch.sparse_coo_tensor(
                rows, self.grad, table.shape, is_coalesced=True, check_invariants=False
            )
            step()

        return run


def cases(name: str, num_rows: int, width: int, touched: int, facts: dict) -> Iterator[dict]:
    """Yield both passes on one table."""
    case = Case(num_rows, width, touched, facts["device"])
    others = {
        "torch fused": case.torch_adam(fused=True),
        "torch fused, gradient at hand": case.torch_adam(at_hand=True, fused=True),
        "SparseAdam (inexact)": case.sparse_adam(),
    }
    table, rows = case.param.nbytes, case.grad.nbytes
    label = f"{name} {num_rows} x {width}, {case.grad.shape[0]} touched"
    eager = {**facts, "least_bytes": 6 * table + rows, "least_flops": 12 * case.param.numel()}
    foreach = {"torch foreach": case.torch_adam(foreach=True)}
    yield measure("adam_rows", label, "step", case.eager, {**others, **foreach}, **eager)
    case.reset()
    for _ in range(BATCHES):
        case.lazy()
    # Reading: three numbers and one written. Stepping: four and three.
    lazy = {**facts, "least_bytes": 11 * rows, "least_flops": 24 * case.grad.numel()}
    yield measure("adam_lazy", label, "lazy step", case.lazy, others, **lazy)


def main() -> None:
    """Measure embedding tables of the named shapes and their trainable 4096-wide features."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--rows", type=int, help="measure one table of so many rows by 4096 alone")
    parser.add_argument("--touched", type=int, default=4096, help="rows with a gradient, at most")
    parser.add_argument("--device", default="cpu")
    options = parse(parser)
    facts = stream_facts(options)
    sizes = [(name, shapes[name].num_nodes, 64) for name in options.shapes]
    sizes += [(f"{name} items", shapes[name].num_items, 4096) for name in options.shapes]
    for name, num_rows, width in [("table", options.rows, 4096)] if options.rows else sizes:
        if num_rows * width * 4 > TABLE_BYTES:
            leave_out(f"adam_rows {name}", f"{num_rows} x {width} and its moments are more memory than is asked for")
            continue
        for result in cases(name, num_rows, width, options.touched, facts):
            emit(result, options.json)


if __name__ == "__main__":
    main()
