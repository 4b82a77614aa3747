"""TorchRecTable: a table that TorchRec keeps in blocks on the ranks and FBGEMM trains by Adagrad, fused in backward.

Adagrad leaves rows without a gradient alone, so the fused step of the rows in a batch has the numbers of one process;
that of Adam has not: on the CPU TorchRec refuses it, on CUDA it leaves out the rows that are not in the batch.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from mmfast.distributed.partitioned_graph import join_blocks
from mmfast.distributed.sharded_table import ShardedTable
from mmfast.distributed.torchrec_planner import check_torchrec, embedding_collection
from mmfast.ranks import rank, world_size

if TYPE_CHECKING:
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.types import ShardingPlan

UNIT = 4
"""FBGEMM reads so many columns at a time: the width of every block is a multiple of it."""
NAME = "table_0"


class TorchRecTable(ShardedTable):
    """A table [N, D] in a DistributedModelParallel of its own; reads and is saved as a ShardedTable.

    Rows that are looked up are leaves of the step's graph. `fused_step` looks all of them up once more and sends their
    gradients back together, so that a row which a step reads several times is trained once, as by one process.
    """

    def __init__(self, values: torch.Tensor, plan: str, number: int, eps: float) -> None:
        """values: the whole table [N, D]; plan: "row", "table" or "column"; number: of the table in its model."""
        super().__init__(values, torchrec_bounds(values.shape, plan, number), by_column=plan == "column")
        engine = _parallel(values, plan, number, eps)
        self._engine = [engine]  # a list: its parameters are this table's, not parts of the model
        self._used: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.squares = torch.zeros_like(self.parameter, requires_grad=False)
        for shard in next(iter(engine.state_dict().values())).local_shards():
            shard.tensor.detach().copy_(self.parameter.detach())
            self.parameter.data = shard.tensor.detach()
        for state in engine.fused_optimizer.state_dict()["state"].values():
            self.squares = next(iter(state.values())).local_shards()[0].tensor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `ids`, [len(ids), D], from the ranks that have them; every rank calls it."""
        with torch.no_grad():
            rows = self._look_up(ids)
        if torch.is_grad_enabled():
            rows.requires_grad_()
            self._used.append((ids, rows))
        return rows

    def all(self) -> torch.Tensor:
        """Return the whole table [N, D], each rank asking for a share of it; every rank calls it."""
        if not torch.is_grad_enabled():
            return self.whole(self.parameter)
        bounds = [self.shape[0] * number // world_size() for number in range(world_size() + 1)]
        first, last = bounds[rank() : rank() + 2]
        return join_blocks(self(torch.arange(first, last, device=self.parameter.device)), bounds)

    def fused_step(self, lr: float) -> None:
        """Train the rows that were looked up since the last step and have a gradient; every rank calls it."""
        used = [(ids, rows.grad) for ids, rows in self._used if rows.grad is not None]
        self._used.clear()
        ids, grads = zip(*used, strict=True) if used else ((), ())
        optimizer = self._engine[0].fused_optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()  # which hands the learning rate on, no more: the rows move in the backward pass
        whole = torch.cat([self.parameter.new_empty(0, dtype=torch.int64), *ids])
        self._look_up(whole).backward(torch.cat([self.parameter.new_empty(0, self.shape[1]), *grads]))

    def _look_up(self, ids: torch.Tensor) -> torch.Tensor:
        from torchrec import KeyedJaggedTensor

        lengths = torch.tensor([len(ids)], device=ids.device)
        return self._engine[0](KeyedJaggedTensor(keys=["ids_0"], values=ids, lengths=lengths))["ids_0"].values()


def torchrec_bounds(shape: torch.Size, plan: str, number: int) -> list[int]:
    """Return where TorchRec's blocks of a table begin and end, world + 1 numbers."""
    ranks = world_size()
    if plan == "table":
        owner = number % ranks
        return [0] * (owner + 1) + [shape[0]] * (ranks - owner)
    size = shape[1] if plan == "column" else shape[0]
    block = -(-size // ranks)
    return [min(size, block * number) for number in range(ranks + 1)]


def takes(shape: torch.Size, plan: str) -> bool:
    """Whether the blocks of a table have a width that FBGEMM can read."""
    return shape[1] % (UNIT * (world_size() if plan == "column" else 1)) == 0


def _parallel(values: torch.Tensor, plan: str, number: int, eps: float) -> DistributedModelParallel:
    check_torchrec()
    # Its notice of torch.fx concerns those who trace modules.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(world_size()))
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.types import ShardingEnv

    module = _Lookup(embedding_collection(0, *values.shape))
    # The learning rate of every step is set before it; this one is never used.
    sharder = EmbeddingCollectionSharder({"optimizer": EmbOptimType.EXACT_ADAGRAD, "learning_rate": 1.0, "eps": eps})
    return DistributedModelParallel(
        module,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=values.device,
        plan=_sharding_plan(module, sharder, plan, number, values.device.type),
        sharders=[sharder],
    )


def _sharding_plan(
    module: _Lookup, sharder: EmbeddingCollectionSharder, plan: str, number: int, device: str
) -> ShardingPlan:
    from torchrec.distributed import sharding_plan as kinds
    from torchrec.distributed.types import ShardingPlan

    ranks = world_size()
    how = {
        "row": lambda: kinds.row_wise(compute_kernel="fused"),
        "table": lambda: kinds.table_wise(rank=number % ranks, compute_kernel="fused"),
        "column": lambda: kinds.column_wise(ranks=list(range(ranks)), compute_kernel="fused"),
    }[plan]()
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    part = kinds.construct_module_sharding_plan(
        module.part, {NAME: how}, sharder=sharder, local_size=local, world_size=ranks, device_type=device
    )
    return ShardingPlan(plan={"part": part})


class _Lookup(nn.Module):
    """The module that DistributedModelParallel divides: one EmbeddingCollection of one table."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, features):  # noqa: ANN001, ANN202 - a KeyedJaggedTensor to a dict of JaggedTensors
        return self.part(features)
