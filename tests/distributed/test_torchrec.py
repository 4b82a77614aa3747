"""Tables in TorchRec, trained by FBGEMM's fused Adagrad: two ranks, every plan, the numbers of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmfast.config import RunConfig, build_config
from mmfast.distributed.sharded_table import ShardedTable
from mmfast.distributed.torchrec_planner import planned
from mmfast.errors import MmfastError
from mmfast.trainer import fit
from tests.distributed.cases import LONG, TRAIN, assert_same_run, case_config
from tests.distributed.jobs import on_ranks, recorded
from tests.frameworks.common import block_dataset

CASES = ("bpr", "vbpr", "lightgcn", "freedom", "mgcn", "freedom + ckd")
PLANS = {"row": CASES, "table": ("vbpr", "lightgcn"), "column": ("bpr", "mgcn"), "auto": ("vbpr", "freedom")}


def adagrad_config(folder: Path, case: str, plan: str, epochs: int | None = None, **changes) -> RunConfig:
    """Return the config of a case by Adagrad, in TorchRec's tables under every plan but "data"."""
    epochs = epochs or (5 if case in LONG else 1)
    distributed = {"plan": plan, "tables": "mmfast" if plan == "data" else "torchrec"}
    train = TRAIN | {"optimizer": "adagrad", "learning_rate": 0.02, "epochs": epochs}
    return case_config(folder, case, plan, train=train, distributed=distributed, **changes)


def runs(folder: Path, cases: tuple[str, ...], plan: str = "data") -> dict:
    """Train every case by a plan; return its steps, metrics, folder and the kinds of its tables."""
    results = {}
    for case in cases:
        config = adagrad_config(folder, case, plan)
        steps, run = recorded(lambda config=config: fit(config, block_dataset(), progress=False))
        results[case] = steps, run.metrics, run.folder, kinds(run.model)
    return results


def kinds(model: torch.nn.Module) -> set[str]:
    return {type(part).__name__ for part in model.modules() if isinstance(part, ShardedTable)}


def job(folder: Path) -> dict:
    """Train every case by every plan, one run by three plans in turn, and one with rows that FBGEMM cannot read."""
    results = {plan: runs(folder / plan, cases, plan) for plan, cases in PLANS.items()}
    for epochs, plan in enumerate(("row", "column", "table"), start=1):
        config = adagrad_config(folder, "bpr", plan, epochs, name="bpr")
        run = fit(config, block_dataset(), resume=folder / "runs/bpr" if epochs > 1 else None, progress=False)
    narrow = adagrad_config(folder, "bpr", "row", 1, name="narrow", options={"embedding_dim": 6})
    odd = kinds(fit(narrow, block_dataset(), progress=False).model)
    try:
        fit(adagrad_config(folder, "vbpr + ogm", "row", 1), block_dataset(), progress=False)
    except MmfastError as error:
        said = str(error)
    tables = planned([(2_000_000, 64), (500, 64)], ranks=8, batch_size=2048, memory=None, bandwidth=2e11)
    return {**results, "resumed": run.folder, "narrow": odd, "said": said, "planned": tables}


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """What the job leaves."""
    return on_ranks(tmp_path_factory.mktemp("torchrec"), job)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Steps, metrics and folder of every case on one process."""
    return runs(tmp_path_factory.mktemp("alone"), CASES)


@pytest.mark.parametrize(("plan", "case"), [(plan, case) for plan, cases in PLANS.items() for case in cases])
def test_every_plan_trains_as_one_process(divided, alone, plan, case):
    assert divided[plan][case][3] == {"TorchRecTable"}
    assert_same_run(divided[plan][case][:3], alone[case][:3], case, flat=("freedom", "freedom + ckd"))


def test_a_run_goes_on_under_another_plan_and_alone(divided, tmp_path):
    config = adagrad_config(tmp_path, "bpr", "data", 4, name="bpr")
    whole = fit(config, block_dataset(), progress=False)
    resumed = fit(config, block_dataset(), resume=divided["resumed"], progress=False)
    for got, want in zip(resumed.model.embed(), whole.model.embed(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_rows_of_another_width_stay_outside(divided):
    assert divided["narrow"] == {"ShardedTable"}


def test_what_torchrec_cannot_train_is_refused(divided):
    assert "'ogm' scales gradients before the optimiser's step" in divided["said"]
    with pytest.raises(MmfastError, match=r"torchrec needs train\.optimizer=adagrad"):
        build_config({"model": "bpr", "distributed": {"tables": "torchrec", "plan": "row"}})
    with pytest.raises(MmfastError, match="optimizer=adagrad has no weight_decay"):
        build_config({"model": "bpr", "train": {"optimizer": "adagrad", "weight_decay": 0.1}})


def test_the_planner_names_every_table(divided):
    assert list(divided["planned"]) == ["table 0 [2,000,000 x 64]", "table 1 [500 x 64]"]
    assert all(" over " in text for text in divided["planned"].values())
