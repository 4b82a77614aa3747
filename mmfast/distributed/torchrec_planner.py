"""What TorchRec's planner would do with the tables of a model, for devices that need not be there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mmfast.doctor import install_line
from mmfast.errors import MmfastError

DEVICE_BYTES = 80 * 10**9


def check_torchrec() -> None:
    """Raise MmfastError where TorchRec is not installed or does not load."""
    try:
        import torchrec.distributed.planner  # noqa: F401
    except ImportError as error:
        needs = f"TorchRec's planner needs torchrec and fbgemm-gpu ({error})"
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
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.types import PlannerError

    topology = Topology(
        world_size=ranks,
        compute_device="cuda",
        hbm_cap=int(memory or DEVICE_BYTES),
        local_world_size=ranks,
        intra_host_bw=bandwidth / 1000,  # TorchRec counts bytes a millisecond
    )
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=max(1, batch_size // ranks))
    try:
        plan = planner.plan(_collections(tables), [EmbeddingCollectionSharder()])
    except PlannerError as error:
        raise MmfastError(f"TorchRec finds no plan: {str(error).splitlines()[0]}") from None
    chosen = {name: one for part in plan.plan.values() for name, one in part.items()}
    texts = {}
    for number, (rows, width) in enumerate(tables):
        one = chosen[f"table_{number}"]
        texts[f"table {number} [{rows:,} x {width}]"] = f"{one.sharding_type} over {len(set(one.ranks))} ranks"
    return texts


def _collections(tables: Sequence[tuple[int, int]]) -> nn.Module:
    """Return a module with one EmbeddingCollection a table, without memory: the planner wants equal widths in each."""
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    module = nn.Module()
    for number, (rows, width) in enumerate(tables):
        table = EmbeddingConfig(
            name=f"table_{number}", embedding_dim=width, num_embeddings=rows, feature_names=[f"ids_{number}"]
        )
        module.add_module(f"part_{number}", EmbeddingCollection(tables=[table], device=torch.device("meta")))
    return module
