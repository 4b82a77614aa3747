"""Runs of the block data under a framework, and batches with universal triples."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmfast.config import build_config
from mmfast.data.dataset import Dataset
from mmfast.data.sampler import Batch, Sampler
from mmfast.registry import MODELS
from mmfast.trainer import fit
from tests.models.test_behaviour import NAMES, block_dataset, build

MULTIMODAL = [name for name in NAMES if build(name, block_dataset()).modalities]


def block_config(tmp_path, model: str, framework, **changes):
    """Return the config of a short run of a model under a framework on the block data."""
    k = {"k": 4} if "k" in MODELS.get(model).Config.model_fields else {}
    raw = {
        "model": {"name": model, "embedding_dim": 8, **k, **changes.pop("options", {})},
        "framework": framework,
        "train": {"epochs": 3, "batch_size": 64, "learning_rate": 0.02, "monitor": "recall@5", "checkpoint_seconds": 0}
        | changes.pop("train", {}),
        "evaluate": {"top_k": [5]},
        "out": str(tmp_path / "runs"),
        "device": "cpu",
        "tensorboard": False,
    }
    return build_config(raw | changes)


def block_run(tmp_path, model: str, framework, dataset: Dataset | None = None, **changes):
    """Return the finished run of `block_config`."""
    return fit(block_config(tmp_path, model, framework, **changes), dataset or block_dataset(), progress=False)


def batch_with_others(dataset: Dataset, others: int = 30) -> Batch:
    """Return a batch of the block data with further triples."""
    batch = next(Sampler(dataset, 64, seed=0).epoch(0))
    generator = torch.Generator().manual_seed(5)
    users = torch.randint(dataset.num_users, (1, others), generator=generator)
    items = torch.randint(dataset.num_items, (2, others), generator=generator)
    return replace(batch, others=torch.cat([users, items]))
