"""Runs on the block data that several ranks and one process must agree on."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import torch

from mmfast.checkpoint import load_checkpoint
from mmfast.config import RunConfig
from mmfast.trainer import fit
from tests.distributed.jobs import assert_same_losses, recorded
from tests.frameworks.common import NAMES, block_config, block_dataset

# The batches are odd, and the last of an epoch is smaller; 10 steps an epoch.
TRAIN = {"batch_size": 37, "patience": 50, "learning_rate": 0.005, "eval_every": 5}
LONG = ("bpr", "freedom")  # 50 steps, the others 10
CASES = {name: (name, [], {}) for name in NAMES} | {
    **{name: (name, [], {"dropout": 0.0}) for name in ("bm3", "smore")},  # dropout of other rows is another draw
    "freedom + ckd": ("freedom", ["ckd"], {}),
    "vbpr + ogm": ("vbpr", ["ogm"], {}),
    "mgcn + gradient_blending": ("mgcn", ["gradient_blending"], {}),
}


def case_config(folder: Path, case: str, plan: str, **changes) -> RunConfig:
    """Return the config of a case by a plan; `name` and `epochs` may be given."""
    model, framework, options = CASES[case]
    train = TRAIN | {"epochs": changes.pop("epochs", 5 if case in LONG else 1)}
    changes = {"options": options, "name": case, "distributed": {"plan": plan}, "train": train} | changes
    return block_config(folder, model, [{"name": f} for f in framework], **changes)


def runs(folder: Path, cases: list[str], plan: str = "data") -> dict:
    """Train every case by a plan; return its steps, metrics and folder."""
    results = {}
    for case in cases:
        config = case_config(folder, case, plan)
        steps, run = recorded(lambda config=config: fit(config, block_dataset(), progress=False))
        results[case] = steps, run.metrics, run.folder
    return results


def assert_same_run(got: tuple, want: tuple, case: str, flat: tuple[str, ...] = ("slmrec",)) -> None:
    """The same losses, metrics and files, and a last model that differs by rounding.

    flat: cases whose biases have a slope of 0 but for rounding, of which an optimiser that divides by it makes steps.
    """
    assert len(want[0]) >= (50 if case in LONG else 10)
    assert_same_losses(got[0], want[0])
    assert got[1] == want[1]
    tables = [pl.read_parquet(folder / "per_user.parquet") for _, _, folder in (got, want)]
    assert tables[0].equals(tables[1])
    tensors = [load_checkpoint(folder / "last.safetensors").tensors for _, _, folder in (got, want)]
    assert tensors[0].keys() == tensors[1].keys()
    for key in tensors[1]:
        if case not in flat or "bias" not in key:
            torch.testing.assert_close(tensors[0][key], tensors[1][key], rtol=1e-3, atol=1e-4)
