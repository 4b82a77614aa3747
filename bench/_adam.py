"""A table with Adam's moments, rows that batches touch, and torch's optimisers over the same memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch

from mmfast.ops import adam_catch_up_, adam_lazy_, adam_rows_


class AdamTable:
    """A random table [num_rows, width] and the ways to step it, all on the same memory: what they reach is not kept."""

    def __init__(self, num_rows: int, width: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.param = (0.1 * torch.randn(num_rows, width, generator=generator)).to(device)
        self.moments = torch.zeros_like(self.param), torch.zeros_like(self.param)
        self.row_steps = torch.zeros(num_rows, 2, dtype=torch.int32, device=device)
        self.made = 0

    def reset(self) -> None:
        """Return to the state before the first step."""
        for state in (*self.moments, self.row_steps):
            state.zero_()
        self.made = 0

    def step_all(self, rows: torch.Tensor, grad: torch.Tensor) -> None:
        """Step every row, those of a batch with their gradient."""
        self.made += 1
        adam_rows_(self.param, *self.moments, rows, grad, lr=1e-3, step=self.made)

    def catch_up(self, rows: torch.Tensor) -> None:
        """Make the steps that the rows of a batch missed: they can be read."""
        adam_catch_up_(self.param, *self.moments, self.row_steps, rows, lr=1e-3, step=self.made)

    def step_rows(self, rows: torch.Tensor, grad: torch.Tensor) -> None:
        """Step the rows of a batch alone."""
        self.made += 1
        adam_lazy_(self.param, *self.moments, self.row_steps, rows, grad, lr=1e-3, step=self.made)

    def optimizer(self, kind: type[torch.optim.Optimizer], **form: bool) -> tuple[torch.nn.Parameter, Callable]:
        """Return the table as a parameter, and the step of an optimiser of torch that has it and these moments."""
        parameter = torch.nn.Parameter(self.param)
        optimizer = kind([parameter], lr=1e-3, **form)
        names = dict(zip(("exp_avg", "exp_avg_sq"), self.moments, strict=True))
        step = 1 if kind is torch.optim.SparseAdam else torch.ones((), device=self.param.device)
        optimizer.state[parameter] = {"step": step, **names}
        return parameter, optimizer.step


def in_turn(batches: Iterable) -> Callable[[], object]:
    """Return a function that gives the batches one after the other, without end."""
    return itertools.cycle(list(batches)).__next__
