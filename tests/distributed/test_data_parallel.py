"""Two ranks that divide every batch have the losses, the metrics and the model of one process."""

from __future__ import annotations

import pytest

from tests.distributed.cases import CASES, LONG, assert_same_run, runs
from tests.distributed.jobs import on_ranks


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The runs of every case, on two ranks and alone."""
    return on_ranks(tmp_path_factory.mktemp("two"), runs, list(CASES)), runs(tmp_path_factory.mktemp("one"), CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one_process(both, name):
    assert_same_run(both[0][name], both[1][name], steps=50 if name in LONG else 10)
