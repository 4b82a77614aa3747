"""Which parts of a model's tables lie on which rank: the plan of a run, carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mmfast.distributed.sharded_table import ShardedTable, block_bounds
from mmfast.embeddings import EmbeddingTable
from mmfast.errors import MmfastError
from mmfast.optim import ADAGRAD_EPS
from mmfast.ranks import by_first, world_size

if TYPE_CHECKING:
    from mmfast.config import RunConfig
    from mmfast.frameworks.base import Framework


def divide_tables(framework: Framework, config: RunConfig) -> None:
    """Put a divided table in the place of every EmbeddingTable, each rank with its part of the values.

    By distributed.plan "row" (blocks of rows), "column", "table" (every table whole on one rank, in turn) or "auto"
    (TorchRec's planner says which of them); by distributed.tables TorchRec's, where FBGEMM can read the width, or ours.
    Raises MmfastError for a table with fewer columns than ranks, and for what TorchRec cannot do.
    """
    children = [(parent, name, part) for parent in list(framework.modules()) for name, part in parent.named_children()]
    tables = [child for child in children if type(child[2]) is EmbeddingTable]
    torchrec = config.distributed.tables == "torchrec"
    if torchrec:
        _check_gradients(framework, config)
    for number, ((parent, name, table), plan) in enumerate(zip(tables, plans_of(tables, config), strict=True)):
        setattr(parent, name, _divided(table, plan, number, name, torchrec))


def _divided(table: EmbeddingTable, plan: str, number: int, name: str, torchrec: bool) -> ShardedTable:
    values = table.weight.detach()
    if torchrec:
        from mmfast.distributed.torchrec_table import TorchRecTable, takes

        if takes(values.shape, plan):
            return TorchRecTable(values, plan, number, ADAGRAD_EPS)
    return ShardedTable(values, block_bounds(values.shape, plan, number, name), by_column=plan == "column")


def plans_of(tables: list[tuple[nn.Module, str, EmbeddingTable]], config: RunConfig) -> list[str]:
    """Return "row", "table" or "column" for each table: the config's, or what TorchRec's planner chooses."""
    if config.distributed.plan != "auto":
        return [config.distributed.plan] * len(tables)
    from mmfast.distributed.torchrec_planner import chosen_plans

    shapes = [tuple(table.parameter.shape) for _, _, table in tables]
    device = tables[0][2].parameter.device.type if tables else "cpu"
    return by_first(lambda: chosen_plans(shapes, world_size(), config.train.batch_size, device))


def _check_gradients(framework: Framework, config: RunConfig) -> None:
    """Raise MmfastError for a framework that changes gradients, which a fused step does not wait for."""
    from mmfast.registry import FRAMEWORKS

    names = [section.name for section in config.framework if "gradients" in FRAMEWORKS.get(section.name).doors]
    if names:
        raise MmfastError(
            f"'{names[0]}' scales gradients before the optimiser's step, but TorchRec's tables train in their backward "
            "pass; set distributed.tables=mmfast"
        )
