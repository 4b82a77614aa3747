"""Adam and Adagrad for parameters whose gradient is dense and for tables whose gradient touches a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops.adam_lazy import adam_catch_up_, adam_lazy_, can_wait
from mmfast.ops.adam_rows import adam_rows_

if TYPE_CHECKING:
    from mmfast.embeddings import RowTable

ADAGRAD_EPS = 1e-10
LAZY_NUMBERS = 1 << 23
"""Numbers in a table from which on its rows may wait; a smaller one stays in the caches: a whole step is cheap."""


class TableOptimizer(torch.optim.Optimizer):
    """torch's optimiser of the same name for tables too: of row-sparse gradients, in parts on ranks."""

    _tables: Mapping[torch.Tensor, RowTable] = MappingProxyType({})  # of a copy, whose rows never wait

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Make one step of every parameter that has a gradient; return the closure's loss if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = []  # set aside, for torch's step refuses them
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and param.grad.is_sparse:
                    self._step_rows(group, param)
                    sparse.append((param, param.grad))
                    param.grad = None
                elif param.grad is not None and param in self._tables:
                    self._tables[param].settle()
        try:
            super().step()
        finally:
            for param, grad in sparse:
                param.grad = grad
        return loss

    def flush(self) -> None:
        """Make the steps that rows of the tables still miss.

        At the end of every epoch, so that a run has the same bits whenever it is evaluated or saved in between.
        """
        for table in self._tables.values():
            table.catch_up()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch's optimiser of the same name after `flush()`."""
        self.flush()
        return self._with_moments(super().state_dict(), lambda table, block: table.whole(block))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state of this class or of torch's optimiser of the same name."""
        for table in self._tables.values():
            table.settle()
        super().load_state_dict(self._with_moments(state_dict, lambda table, whole: table.part(whole)))

    def _step_rows(self, group: dict[str, Any], param: torch.Tensor) -> None:
        """Make the step of a parameter whose gradient is row-sparse (abstract)."""
        raise NotImplementedError

    def _with_moments(
        self, state_dict: dict[str, Any], change: Callable[[RowTable, torch.Tensor], torch.Tensor]
    ) -> dict[str, Any]:
        """Return a state whose moments of the tables are changed: whole in a state dict, this rank's part in use."""
        tables = [self._tables.get(param) for group in self.param_groups for param in group["params"]]
        state = dict(state_dict["state"])
        for number in sorted(state):
            if table := tables[number]:
                state[number] = {name: change(table, t) if t.dim() else t for name, t in state[number].items()}
        return {**state_dict, "state": state}


class Adagrad(TableOptimizer, torch.optim.Adagrad):
    """torch.optim.Adagrad; tables that train themselves (`RowTable.squares`) make their step when it steps.

    A row without a gradient stays as it is, so a row-sparse gradient and a dense one make the same step.

    Example: `optimizer = Adagrad(model.parameters(), lr=0.01, tables=row_tables(model))`
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, tables: Iterable[RowTable] = ()) -> None:
        super().__init__(params, lr=lr, eps=ADAGRAD_EPS)
        self._tables = {table.parameter: table for table in tables}
        self._share_squares()

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Make one step of every parameter that has a gradient; return the closure's loss if there is a closure."""
        loss = super().step(closure)
        rates = {param: float(group["lr"]) for group in self.param_groups for param in group["params"]}
        for param, table in self._tables.items():
            if table.squares is not None:
                table.fused_step(rates[param])
                self.state[param]["step"] += 1
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state of this class or of torch.optim.Adagrad."""
        super().load_state_dict(state_dict)
        for param, table in self._tables.items():
            if table.squares is not None:
                table.squares.copy_(self.state[param]["sum"])
        self._share_squares()

    def _step_rows(self, group: dict[str, Any], param: torch.Tensor) -> None:
        state = self.state[param]
        state["step"] += 1
        rows, grad = _sorted_rows(param.grad)
        squares = state["sum"].index_add_(0, rows, grad.square())[rows]
        with torch.no_grad():
            param.index_add_(0, rows, grad / squares.sqrt_().add_(group["eps"]), alpha=-float(group["lr"]))

    def _share_squares(self) -> None:
        for param, table in self._tables.items():
            if table.squares is not None:
                self.state[param]["sum"] = table.squares


class Adam(TableOptimizer, torch.optim.Adam):
    """torch.optim.Adam, fused, that takes row-sparse gradients too and makes the very same step of them.

    A gradient is row-sparse where the parameter is a table [N, F] read by `F.embedding(rows, table, sparse=True)`.
    Every row still decays and moves, as with a dense gradient of zeros elsewhere; only that gradient is never made.
    The rows of large `tables` do so late, when they are next read or at `flush()`, to the same numbers up to rounding.
    Ids that are sorted and unique, as from `compact_ids`, save the sorting of the gradient. To see that they are, a
    step waits for the device, unless the gradient says that it is coalesced; after `backward()` it does not, for
    autograd makes it anew without that word.
    weight_decay is the coupled one; it lets no row wait, and neither do betas with beta1 >= sqrt(beta2). Parameters
    without a gradient are left alone. The state is that of torch.optim.Adam and loads into it.

    Example: `optimizer = Adam(model.parameters(), lr=1e-3, tables=row_tables(model))`
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        tables: Iterable[RowTable] = (),
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self._tables = {table.parameter: table for table in tables}

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return super().__getstate__()

    def _step_rows(self, group: dict[str, Any], param: torch.Tensor) -> None:
        if group["amsgrad"] or group["maximize"] or param.grad.sparse_dim() != 1:
            raise MmfastError(
                "Adam: a row-sparse gradient needs amsgrad=False, maximize=False and one sparse dimension (the rows); "
                f"got amsgrad={group['amsgrad']}, maximize={group['maximize']}, {param.grad.sparse_dim()} of them"
            )
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1
        rows, grad = _sorted_rows(param.grad)
        settings = {"lr": float(group["lr"]), "eps": group["eps"]}
        settings["beta1"], settings["beta2"] = group["betas"]
        table = self._tables.get(param)
        waits = param.numel() >= LAZY_NUMBERS and not group["weight_decay"] and can_wait(*group["betas"])
        if table is not None and waits:
            if table.waiting is None:
                table.waiting = WaitingRows(state)
            table.waiting.step_rows(param, rows, grad, settings)
            return
        if table is not None:
            table.settle()
        moments = state["exp_avg"], state["exp_avg_sq"]
        step = _number(state)
        adam_rows_(param, *moments, rows, grad, **settings, weight_decay=group["weight_decay"], step=step)


class WaitingRows:
    """The rows of one table and the steps of Adam that each has made; those it misses are made when it is read."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        """state: that of torch.optim.Adam, with the step counted that is about to be made."""
        self.moments = state["exp_avg"], state["exp_avg_sq"]
        self.step = _number(state) - 1
        self.row_steps = self.step.int().repeat(self.moments[0].shape[0], 2)
        self.settings: dict[str, float] = {}
        self.behind = False

    def step_rows(
        self, param: torch.Tensor, rows: torch.Tensor, grad: torch.Tensor, settings: dict[str, float]
    ) -> None:
        """Step the rows of a gradient; the steps missed so far are first made by the settings that held for them."""
        if settings != self.settings:
            self.catch_up(param)
            self.settings = settings
        self.step += 1
        adam_lazy_(param.data, *self.moments, self.row_steps, rows, grad, **settings, step=self.step)
        self.behind = True

    def catch_up(self, param: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Make the parameters of `rows` current, in any order; None: the whole table and its moments."""
        if self.behind:
            # .data: what autograd has saved of the rows in use does not change.
            adam_catch_up_(param.data, *self.moments, self.row_steps, rows, **self.settings, step=self.step)
            self.behind = rows is not None


def _number(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the step in the state of a table as the ops take it: on the table's device, which nobody waits for."""
    return state["step"].to(state["exp_avg"].device, torch.int64, non_blocking=True)


def _sorted_rows(grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (rows, values) of a row-sparse gradient, rows sorted and unique; sorts only where they are not.

    A gradient that says it is coalesced is not looked at: a device need not be waited for.
    """
    if not grad.is_coalesced() and not bool((grad._indices()[0].diff() > 0).all()):
        grad = grad.coalesce()
    return grad._indices()[0], grad._values()
