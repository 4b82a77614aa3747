"""Time of a whole step of BPR-MF: gather, loss, scatter and Adam, against eager PyTorch with torch's optimisers.

`lazy step` steps the rows of the batch, after the steps they missed; `step` moves every row, which is the same Adam.
Eager PyTorch makes a dense gradient of the whole table for torch.optim.Adam, or a sparse one for SparseAdam, which
drops the steps that a row misses and ends elsewhere. Run: `python bench/bpr_step.py [--shapes elec] [--json]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from _adam import AdamTable, in_turn
from _cli import SIZES, parse, shape_parser, stream_facts
from _common import emit, measure, shapes

from mmfast.ops import bpr_loss, compact_ids

BATCHES = 64
"""Batches that are drawn once and used in turn; as many steps are made before the first is measured."""


class Step(AdamTable):
    """Users' and items' vectors in one table, batches of triples of its rows, and the ways to make a step."""

    def __init__(self, name: str, width: int, batch: int, device: str) -> None:
        shape = shapes[name]
        super().__init__(shape.num_nodes, width, device)
        generator = torch.Generator().manual_seed(1)
        users = torch.randint(0, shape.num_users, (BATCHES, 1, batch), generator=generator)
        items = torch.randint(shape.num_users, shape.num_nodes, (BATCHES, 2, batch), generator=generator)
        self.next_batch = in_turn(torch.cat([users, items], 1).to(device))

    def gradient(self, waiting: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows of the next batch and the gradient of its loss in them."""
        rows, index = compact_ids(self.next_batch(), len(self.param))
        if waiting:
            self.catch_up(rows)
        part = self.param[rows].requires_grad_()
        return rows, *torch.autograd.grad(bpr_loss(part, part, *index), part)

    def eager(self) -> None:
        """Make a step that moves every row."""
        self.step_all(*self.gradient(waiting=False))

    def lazy(self) -> None:
        """Make a step of the batch's rows."""
        self.step_rows(*self.gradient(waiting=True))

    def torch_step(self, kind: type[torch.optim.Optimizer], **form: bool) -> Callable[[], None]:
        """Return the step that eager PyTorch makes."""
        table, step = self.optimizer(kind, **form)
        sparse = kind is torch.optim.SparseAdam

        def run() -> None:
            table.grad = None
            user, pos, neg = (F.embedding(rows, table, sparse=sparse) for rows in self.next_batch())
            (-F.logsigmoid((user * (pos - neg)).sum(1)).mean()).backward()
            step()

        return run


def cases(name: str, width: int, batch: int, facts: dict) -> Iterator[dict]:
    """Yield both kinds of step at one shape."""
    step = Step(name, width, batch, facts["device"])
    others = {
        "eager, torch Adam fused": step.torch_step(torch.optim.Adam, fused=True),
        "eager, torch Adam": step.torch_step(torch.optim.Adam),
        "eager, SparseAdam (inexact)": step.torch_step(torch.optim.SparseAdam),
    }
    label = f"{name} {len(step.param)} x {width}, batch {batch}"
    rows, index = 3 * batch * width * 4, 3 * batch * 8
    flops = (2 + 4) * batch * width  # of the margin and the gradient, beside Adam's
    # A table and its moments are read and written: all of them, or the rows of a batch.
    least = {"least_bytes": 6 * step.param.nbytes + rows + index, "least_flops": 12 * step.param.numel() + flops}
    yield measure("bpr_step", label, "step", step.eager, others, **facts, **least)
    step.reset()
    for _ in range(BATCHES):
        step.lazy()
    least = {"least_bytes": 6 * rows + index, "least_flops": 24 * 3 * batch * width + flops}
    yield measure("bpr_step", label, "lazy step", step.lazy, others, **facts, **least)


def main() -> None:
    """Measure the tables of the named shapes."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    options = parse(parser)
    facts = stream_facts(options)
    for name in options.shapes:
        for case in cases(name, options.width, options.batch, facts):
            emit(case, options.json)


if __name__ == "__main__":
    main()
