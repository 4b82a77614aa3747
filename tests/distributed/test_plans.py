"""Two ranks that divide batches, tables and graphs train as one process does, and leave whole files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from mmfast.distributed.partitioned_graph import ROW_COST, balanced_bounds
from mmfast.distributed.sharded_table import ShardedTable
from mmfast.errors import MmfastError
from mmfast.registry import FRAMEWORKS, MODELS
from mmfast.run import Run
from mmfast.trainer import fit
from tests.distributed import cases
from tests.distributed.cases import assert_same_run, case_config, runs
from tests.distributed.jobs import on_ranks
from tests.frameworks.common import NAMES, block_dataset
from tests.toys import Toy

LOOKED_UP = ("bpr", "vbpr")
PLANS = {
    "data": list(cases.CASES),
    "row": [*LOOKED_UP, *(name for name in NAMES if MODELS.get(name).over_ranks == "rows"), "freedom + ckd"],
    "table": LOOKED_UP,
    "column": [*LOOKED_UP, "lightgcn"],
}
CASES = [(plan, name) for plan, names in PLANS.items() for name in names]


def job(folder: Path) -> dict:
    """Train every case by every plan, and one run by three plans, an epoch each."""
    results = {plan: runs(folder / plan, names, plan) for plan, names in PLANS.items()}
    for epochs, plan in enumerate(("row", "column", "table"), start=1):
        config = case_config(folder, "bpr", plan, name="bpr", epochs=epochs)
        run = fit(config, block_dataset(), resume=folder / "runs/bpr" if epochs > 1 else None, progress=False)
    return {**results, "resumed": run.folder, "blocks": blocks(run), "said": refusals(folder / "refused")}


def refusals(folder: Path) -> dict[str, str]:
    """Return what is said of models, frameworks and sizes that ranks cannot take, and the runs left behind."""
    said, sections = {}, FRAMEWORKS.get("targetmr").Config(name="targetmr")
    for case, changes in {
        "toy": {"model": Toy.Config(name="toy")},
        "targetmr": {"framework": (sections,)},
        "column": {"model": MODELS.get("bpr").Config(name="bpr", embedding_dim=1)},
    }.items():
        name = "freedom" if case == "targetmr" else "bpr"
        config = case_config(folder, name, "column").model_copy(update=changes)
        try:
            fit(config, block_dataset(), progress=False)
        except MmfastError as error:
            said[case] = str(error)
    return {**said, "left": [path.name for path in folder.glob("runs/*")]}


def blocks(run: Run) -> list[tuple[int, ...]]:
    return [tuple(part.parameter.shape) for part in run.model.modules() if isinstance(part, ShardedTable)]


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """What the job leaves."""
    return on_ranks(tmp_path_factory.mktemp("plans"), job)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Steps, metrics and folder of every case on one process."""
    return runs(tmp_path_factory.mktemp("alone"), list(cases.CASES))


@pytest.mark.parametrize(("plan", "name"), CASES)
def test_every_plan_trains_as_one_process(divided, alone, plan, name):
    assert_same_run(divided[plan][name], alone[name], name)


def test_a_run_goes_on_under_another_plan_and_alone(divided, tmp_path):
    config = case_config(tmp_path, "bpr", "data", name="bpr", epochs=4)
    whole = fit(config, block_dataset(), progress=False)
    resumed = fit(config, block_dataset(), resume=divided["resumed"], progress=False)
    for got, want in zip(resumed.model.embed(), whole.model.embed(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    assert divided["blocks"] == [(40, 8), (0, 8)]  # by table: the first has the users


def test_what_ranks_cannot_train_is_refused(divided):
    said = divided["said"]
    assert "'toy' is not made for several ranks" in said["toy"] and said["left"] == []
    assert "'targetmr' is not made for several ranks" in said["targetmr"]
    assert "'users' has 1 columns for 2 ranks; choose a larger model.embedding_dim" in said["column"]


def test_rows_are_divided_by_their_cost():
    degrees = np.random.default_rng(0).zipf(1.5, 1000).clip(max=5000)
    bounds = np.array(balanced_bounds(np.concatenate([[0], np.cumsum(degrees)]), 4))
    costs = [degrees[a:b].sum() + ROW_COST * (b - a) for a, b in pairwise(bounds)]
    assert bounds[0] == 0 and bounds[-1] == 1000
    assert max(costs) <= sum(costs) / 4 + degrees.max() + ROW_COST
    assert balanced_bounds(np.array([0]), 3) == [0, 0, 0, 0]
