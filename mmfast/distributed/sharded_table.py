"""ShardedTable: an EmbeddingTable of which every rank has a block of the rows or of the columns, as its plan says.

Rows are looked up where they lie and travel to the rank that asks; their gradients travel back, and the rank that has
a row trains it with the optimiser of one process, state and all.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from mmfast.embeddings import RowTable
from mmfast.errors import MmfastError
from mmfast.ranks import all_rows, rank, sum_of_own, world_size


class ShardedTable(RowTable):
    """A table [N, D], `weight` being this rank's block [N_r, D] or [N, D_r]; reads as an EmbeddingTable does.

    A state dict holds the whole table, on every rank, and any number of ranks takes it.
    """

    def __init__(self, values: torch.Tensor, bounds: list[int], by_column: bool) -> None:
        """values: the whole table [N, D]; bounds: where the ranks' blocks begin and end, world + 1 of them."""
        self.by_column, self.bounds, self.shape = by_column, bounds, tuple(values.shape)
        super().__init__(self.part(values))
        self.parameter.of_one_rank = True

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `ids`, [len(ids), D], from the ranks that have them; every rank calls it."""
        if self.by_column:
            counts = _numbers(len(ids), ids.device)
            found = _lookup(self, all_rows(ids, counts))
            widths = [b - a for a, b in pairwise(self.bounds)]
            sent = [count * found.shape[1] for count in counts]
            taken = [len(ids) * width for width in widths]
            parts = _Exchange.apply(found.reshape(-1), sent, taken).split(taken)
            return torch.cat([part.view(len(ids), width) for part, width in zip(parts, widths, strict=True)], dim=1)
        ids, order = ids.sort(stable=True)
        ends = torch.tensor(self.bounds, device=ids.device)
        asked = torch.searchsorted(ids, ends).diff()
        wanted = torch.empty_like(asked)
        dist.all_to_all_single(wanted, asked)
        asked, wanted = asked.tolist(), wanted.tolist()
        requests = ids.new_empty(sum(wanted))
        dist.all_to_all_single(requests, ids, wanted, asked)
        rows = _Exchange.apply(_lookup(self, requests - self.bounds[rank()]), wanted, asked)
        return rows.index_select(0, order.argsort())

    def all(self) -> torch.Tensor:
        """Return the whole table [N, D], gathered; every rank calls it."""
        self.catch_up()
        return _Gather.apply(self.parameter, self)

    def whole(self, block: torch.Tensor) -> torch.Tensor:
        """Return the whole [N, D] of the ranks' blocks, which lie as those of the table do; every rank calls it."""
        sizes = [b - a for a, b in pairwise(self.bounds)]
        if self.by_column:
            return all_rows(block.detach().t().contiguous(), sizes).t().contiguous()
        return all_rows(block.detach(), sizes)

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this rank's block of a whole [N, D], as a tensor of its own."""
        block = slice(*self.bounds[rank() : rank() + 2])
        return (whole[:, block] if self.by_column else whole[block]).clone(memory_format=torch.contiguous_format)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.catch_up()
        destination[f"{prefix}weight"] = self.whole(self.parameter)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any, **options: Any) -> None:
        name = f"{prefix}weight"
        super()._load_from_state_dict({**state, name: self.part(state[name])}, prefix, *args, **options)


def block_bounds(shape: torch.Size, plan: str, number: int, name: str = "table") -> list[int]:
    """Return where the blocks of the ranks begin and end, world + 1 numbers, for the table `number` of a model."""
    ranks = world_size()
    if plan == "table":
        owner = number % ranks
        return [0] * (owner + 1) + [shape[0]] * (ranks - owner)
    size = shape[1] if plan == "column" else shape[0]
    if plan == "column" and size < ranks:
        raise MmfastError(
            f"distributed.plan=column: '{name}' has {size} columns for {ranks} ranks; choose a larger "
            "model.embedding_dim, fewer ranks, or distributed.plan=row"
        )
    return [size * number // ranks for number in range(ranks + 1)]


def _lookup(table: ShardedTable, ids: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, table.read(ids), sparse=True)


def _numbers(value: int, device: torch.device) -> list[int]:
    return all_rows(torch.tensor([value], device=device), [1] * world_size()).tolist()


class _Exchange(torch.autograd.Function):
    """Sends `sent` rows to each rank and takes `taken` from each; gradients go back, and are of a mean over ranks."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sent: list[int], taken: list[int]) -> torch.Tensor:
        ctx.sent, ctx.taken = sent, taken
        out = rows.new_empty(sum(taken), *rows.shape[1:])
        dist.all_to_all_single(out, rows.contiguous(), taken, sent)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        out = grad.new_empty(sum(ctx.sent), *grad.shape[1:])
        dist.all_to_all_single(out, grad.contiguous(), ctx.sent, ctx.taken)
        return out / world_size(), None, None


class _Gather(torch.autograd.Function):
    """The whole of a table; the gradient of a block is the mean over ranks."""

    @staticmethod
    def forward(ctx: Any, block: torch.Tensor, table: ShardedTable) -> torch.Tensor:
        ctx.table = table
        return table.whole(block)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        bounds, by_column = ctx.table.bounds, ctx.table.by_column
        own = sum_of_own(grad.t() if by_column else grad, bounds) / world_size()
        return own.t().contiguous() if by_column else own, None
