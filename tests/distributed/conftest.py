"""The runs of one process that those of several ranks are compared with."""

from __future__ import annotations

import pytest

from tests.distributed.cases import CASES, runs


@pytest.fixture(scope="package")
def alone(tmp_path_factory):
    """Steps, metrics and folder of every case on one process."""
    return runs(tmp_path_factory.mktemp("alone"), list(CASES))
