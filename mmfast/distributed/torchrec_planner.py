"""What TorchRec's planner chooses for the tables of a model, for ranks and for devices that need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmfast.doctor import install_line
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from torchrec.distributed.planner import Topology
    from torchrec.distributed.types import ParameterSharding

DEVICE_BYTES = 80 * 10**9


def check_torchrec() -> None:
    """Raise MmfastError where TorchRec is not installed or does not load."""
    try:
        import torchrec.distributed.planner  # noqa: F401
    except ImportError as error:
        needs = f"TorchRec needs torchrec and fbgemm-gpu ({error})"
        raise MmfastError(f"{needs}; {install_line('scale')}") from None


def planned(
    tables: Sequence[tuple[int, int]], ranks: int, batch_size: int, memory: float | None, bandwidth: float
) -> dict[str, str]:
    """Return "table 0 [N x D]" -> "row_wise over 8 ranks", as TorchRec's EmbeddingShardingPlanner chooses for CUDA.

    tables: (rows, columns). memory: bytes of a rank, 80 GB unless given. bandwidth: bytes/s between ranks. Raises
    MmfastError where TorchRec is not installed, or finds no plan.

    Example: `planned([(2_000_000, 64)], ranks=8, batch_size=2048, memory=80e9, bandwidth=2e11)`
    """
    check_torchrec()
    from torchrec.distributed.planner import Topology

    topology = Topology(
        world_size=ranks,
        compute_device="cuda",
        hbm_cap=int(memory or DEVICE_BYTES),
        local_world_size=ranks,
        intra_host_bw=bandwidth / 1000,  # TorchRec counts bytes a millisecond
    )
    texts = {}
    for number, one in enumerate(_choices(tables, topology, batch_size // ranks, None)):
        rows, width = tables[number]
        texts[f"table {number} [{rows:,} x {width}]"] = f"{one.sharding_type} over {len(set(one.ranks))} ranks"
    return texts


def chosen_plans(tables: Sequence[tuple[int, int]], ranks: int, batch_size: int, device: str) -> list[str]:
    """Return "row", "table" or "column" for each of `tables` (rows, columns), by TorchRec's planner.

    Raises MmfastError where TorchRec is not installed, or finds no plan.

    Example: `chosen_plans([(2_000_000, 64)], ranks=8, batch_size=2048, device="cuda")`
    """
    check_torchrec()
    from torchrec.distributed.planner import Topology
    from torchrec.distributed.planner.types import ParameterConstraints

    kinds = [f"{kind}_wise" for kind in ("row", "table", "column")]
    allowed = {
        f"table_{number}": ParameterConstraints(sharding_types=kinds, compute_kernels=["fused"])
        for number in range(len(tables))
    }
    topology = Topology(world_size=ranks, compute_device=device)
    chosen = _choices(tables, topology, batch_size // ranks, allowed)
    return [one.sharding_type.removesuffix("_wise") for one in chosen]


def _choices(
    tables: Sequence[tuple[int, int]], topology: Topology, batch_size: int, constraints: dict[str, Any] | None
) -> list[ParameterSharding]:
    """Return what EmbeddingShardingPlanner chooses for each table, for batches of `batch_size` on a rank."""
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner
    from torchrec.distributed.planner.types import PlannerError

    planner = EmbeddingShardingPlanner(topology=topology, batch_size=max(1, batch_size), constraints=constraints)
    try:
        plan = planner.plan(_collections(tables), [EmbeddingCollectionSharder()])
    except PlannerError as error:
        raise MmfastError(f"TorchRec finds no plan: {str(error).splitlines()[0]}") from None
    chosen = {name: one for part in plan.plan.values() for name, one in part.items()}
    return [chosen[f"table_{number}"] for number in range(len(tables))]


def _collections(tables: Sequence[tuple[int, int]]) -> nn.Module:
    """Return a module with one EmbeddingCollection a table: the planner wants equal widths in each."""
    module = nn.Module()
    for number, (rows, width) in enumerate(tables):
        module.add_module(f"part_{number}", embedding_collection(number, rows, width))
    return module


def embedding_collection(number: int, rows: int, width: int) -> nn.Module:
    """Return TorchRec's EmbeddingCollection of one table "table_<number>", read by "ids_<number>", without memory."""
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    table = EmbeddingConfig(
        name=f"table_{number}", embedding_dim=width, num_embeddings=rows, feature_names=[f"ids_{number}"]
    )
    return EmbeddingCollection(tables=[table], device=torch.device("meta"))
