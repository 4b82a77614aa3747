"""Two ranks that divide every batch have the losses, the metrics and the model of one process."""

from __future__ import annotations

import pytest

from tests.distributed.cases import CASES, assert_same_run, runs
from tests.distributed.jobs import on_ranks


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """The runs of every case on two ranks."""
    return on_ranks(tmp_path_factory.mktemp("two"), runs, list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one_process(divided, alone, name):
    assert_same_run(divided[name], alone[name], name)
