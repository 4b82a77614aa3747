"""EmbeddingTable: rows of trainable vectors, looked up by id or taken whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from mmfast.wide import Linear

if TYPE_CHECKING:
    from mmfast.optim import WaitingRows


class RowTable(nn.Module):
    """A trainable table [N, F], `weight`, whose rows are current when they are read, however lazily they are trained.

    An optimiser may let rows wait in `waiting`. `read(ids)` makes the rows in use current, every other way to the
    values (`all()`, `weight`, a state dict, a copy) the whole table.
    """

    squares: torch.Tensor | None = None
    """Adagrad's sums of squares, of a table that makes its own `fused_step`; None where an optimiser trains it."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.waiting: WaitingRows | None = None
        self.register_parameter("weight", nn.Parameter(values))

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself; its rows may be behind."""
        return self._parameters["weight"]

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the parameter [N, F] with the rows `ids` current; only these may be read of it."""
        self.catch_up(ids)
        return self.parameter

    def all(self) -> torch.Tensor:
        """Return the whole table [N, F]."""
        self.catch_up()
        return self.parameter

    def whole(self, block: torch.Tensor) -> torch.Tensor:
        """Return the whole of a tensor that lies as this process's part of the table does: itself."""
        return block

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a whole tensor [N, F]: itself."""
        return whole

    def catch_up(self, ids: torch.Tensor | None = None) -> None:
        """Make the steps that the rows `ids` (None: all, moments too) still miss."""
        if self.waiting is not None:
            self.waiting.catch_up(self.parameter, None if ids is None else ids.reshape(-1))

    def fused_step(self, lr: float) -> None:
        """Make this step's update of the table, where `squares` is a tensor (abstract)."""
        raise NotImplementedError

    def settle(self) -> None:
        """Make all steps that are missed and let no row wait until the next row-sparse step."""
        self.catch_up()
        self.waiting = None

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            self.catch_up()
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        self.catch_up()
        return {**self.__dict__, "waiting": None}

    def _save_to_state_dict(self, *args: Any, **options: Any) -> None:
        self.catch_up()
        super()._save_to_state_dict(*args, **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.catch_up()
        super()._load_from_state_dict(*args, **options)


class _WholeAndParts(torch.autograd.Function):
    """A table and its parts, whose gradients are written once into one table.

    Split and used whole, a table has zeros for unused parts, their concatenation and its sum with the whole's gradient.
    """

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
        ctx.shape, ctx.sizes = table.shape, sizes
        ctx.set_materialize_grads(False)
        return table.view_as(table), *table.split(sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, whole: torch.Tensor | None, *parts: torch.Tensor | None) -> tuple[torch.Tensor | None, None]:
        given = [grad for grad in parts if grad is not None]
        if not given:
            return whole, None
        out = given[0].new_empty(ctx.shape)
        wholes = [None] * len(parts) if whole is None else whole.split(ctx.sizes)
        for target, *grads in zip(out.split(ctx.sizes), wholes, parts, strict=True):
            match [grad for grad in grads if grad is not None]:
                case [first, second]:
                    torch.add(first, second, out=target)
                case [only]:
                    target.copy_(only)
                case _:
                    target.zero_()
        return out, None


def whole_and_parts(table: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
    """Return a table [N, D] and its parts of `sizes` rows, for a model that uses both; differentiable once.

    Example: `nodes, users, items = whole_and_parts(self.nodes.all(), [num_users, num_items])`
    """
    return _WholeAndParts.apply(table, sizes)


def row_tables(module: nn.Module) -> list[RowTable]:
    """Return the tables of a model, for `Adam(..., tables=row_tables(model))`."""
    return [part for part in module.modules() if isinstance(part, RowTable)]


class EmbeddingTable(RowTable):
    """A trainable table [rows, D]; several stacked parts (users, items) are initialised each by its own size."""

    def __init__(self, parts: Sequence[int], dim: int, init: str, generator: torch.Generator) -> None:
        """init: "xavier_uniform" (XU) or "xavier_normal" (XN) of protocol section 8, with fan = rows + dim per part."""
        super().__init__(torch.empty(sum(parts), dim))
        for part in self.weight.data.split(list(parts)):
            xavier(part, init, generator)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `ids`, [len(ids), D]; their gradient touches only these rows."""
        return F.embedding(ids, self.read(ids), sparse=True)


def xavier(tensor: torch.Tensor, init: str, generator: torch.Generator) -> None:
    """Fill a matrix [n, m] in place: uniform in +-sqrt(6 / (n + m)) or normal with std sqrt(2 / (n + m))."""
    fan = sum(tensor.shape)
    with torch.no_grad():
        if init == "xavier_uniform":
            bound = math.sqrt(6.0 / fan)
            tensor.uniform_(-bound, bound, generator=generator)
        elif init == "xavier_normal":
            tensor.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
        else:
            raise ValueError(f"init is '{init}'; wanted 'xavier_uniform' or 'xavier_normal'")


def linear(in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear map with weight and bias uniform in +-1 / sqrt(in_dim) (LIN of protocol section 8)."""
    layer = Linear(in_dim, out_dim)
    bound = 1.0 / math.sqrt(in_dim)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
