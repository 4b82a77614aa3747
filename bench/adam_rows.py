"""Time of one exact Adam step on a table of which a batch touched a few rows, against torch with a dense gradient.

`step` makes the step of every row at once; `lazy step` reads the rows of a batch, which makes up what they missed, and
steps them alone. SparseAdam is beside it for its time: it drops the steps that a row misses and ends elsewhere.
Run from the repository: `python bench/adam_rows.py [--shapes elec] [--rows 20000] [--json]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from _cli import parse, shape_parser, stream_facts
from _common import emit, measure, shapes

from mmfast.ops import adam_catch_up_, adam_lazy_, adam_rows_

BATCHES = 64
"""Batches that are drawn once and used in turn; as many steps are made before the first is measured."""


class Case:
    """A table with moments, batches of touched rows, and the ways to step it; all work on the same memory."""

    def __init__(self, num_rows: int, width: int, touched: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.param = (0.1 * torch.randn(num_rows, width, generator=generator)).to(device)
        self.moments = torch.zeros_like(self.param), torch.zeros_like(self.param)
        self.row_steps = torch.zeros(num_rows, 2, dtype=torch.int32, device=device)
        self.grad = (1e-3 * torch.randn(min(touched, num_rows), width, generator=generator)).to(device)
        batches = [torch.randperm(num_rows, generator=generator)[:touched].sort()[0] for _ in range(BATCHES)]
        self.batches = itertools.cycle([rows.to(device) for rows in batches])
        self.made = 0

    def eager(self) -> None:
        """Step every row."""
        self.made += 1
        adam_rows_(self.param, *self.moments, next(self.batches), self.grad, lr=1e-3, step=self.made)

    def lazy(self) -> None:
        """Read the rows of a batch and step them."""
        rows, state = next(self.batches), (self.param, *self.moments, self.row_steps)
        adam_catch_up_(*state, rows, lr=1e-3, step=self.made)
        self.made += 1
        adam_lazy_(*state, rows, self.grad, lr=1e-3, step=self.made)

    def torch_adam(self, kind: type[torch.optim.Optimizer], **form: bool) -> Callable[[], None]:
        """Return a step of an optimiser of torch, its gradient made anew; dense but for SparseAdam."""
        table = torch.nn.Parameter(self.param)
        optimizer = kind([table], lr=1e-3, **form)
        names = dict(zip(("exp_avg", "exp_avg_sq"), self.moments, strict=True))
        step = 1 if kind is torch.optim.SparseAdam else torch.ones((), device=self.param.device)
        optimizer.state[table] = {"step": step, **names}

        def run() -> None:
            rows = next(self.batches)
            if kind is torch.optim.SparseAdam:
                table.grad = torch.sparse_coo_tensor(
                    rows[None], self.grad, table.shape, is_coalesced=True, check_invariants=False
                )
            else:
                table.grad = torch.zeros_like(table).index_copy_(0, rows, self.grad)
            optimizer.step()

        return run


def cases(name: str, num_rows: int, width: int, touched: int, facts: dict) -> list[dict]:
    """Measure both passes on one table."""
    case = Case(num_rows, width, touched, facts["device"])
    sparse = case.torch_adam(torch.optim.SparseAdam)
    others = {"torch fused": case.torch_adam(torch.optim.Adam, fused=True), "SparseAdam (inexact)": sparse}
    table, rows = case.param.nbytes, case.grad.nbytes
    label = f"{name} {num_rows} x {width}, {case.grad.shape[0]} touched"
    eager = {**facts, "least_bytes": 6 * table + rows, "least_flops": 12 * case.param.numel()}
    foreach = {"torch foreach": case.torch_adam(torch.optim.Adam, foreach=True)}
    results = [measure("adam_rows", label, "step", case.eager, {**others, **foreach}, **eager)]
    for moment in case.moments:
        moment.zero_()
    case.made = 0
    for _ in range(BATCHES):
        case.lazy()
    # Reading: three numbers and one written. Stepping: four and three.
    lazy = {**facts, "least_bytes": 11 * rows, "least_flops": 24 * case.grad.numel()}
    return [*results, measure("adam_lazy", label, "lazy step", case.lazy, others, **lazy)]


def main() -> None:
    """Measure embedding tables of the named shapes and their trainable 4096-wide features."""
    parser = shape_parser(__doc__, ["baby", "elec"])
    parser.add_argument("--rows", type=int, help="measure one table of so many rows by 4096 alone")
    parser.add_argument("--touched", type=int, default=4096, help="rows with a gradient, at most")
    parser.add_argument("--device", default="cpu")
    options = parse(parser)
    facts = stream_facts(options)
    sizes = [(name, shapes[name].num_nodes, 64) for name in options.shapes]
    sizes += [(f"{name} items", shapes[name].num_items, 4096) for name in options.shapes]
    for name, num_rows, width in [("table", options.rows, 4096)] if options.rows else sizes:
        for result in cases(name, num_rows, width, options.touched, facts):
            emit(result, options.json)


if __name__ == "__main__":
    main()
