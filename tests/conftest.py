"""Every test draws the same numbers in any order; those that only a GPU can decide are skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from tests.kernels import DEVICE, EMULATED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `cuda` without a GPU, and under MMFAST_TEST_DEVICE, which makes every launch wait."""
    if not torch.cuda.is_available():
        reason = "needs a GPU: only one can decide it"
    elif DEVICE != "cpu" or EMULATED:
        reason = (
            "needs launches that do not wait: run `pytest -m cuda` without MMFAST_TEST_DEVICE or MMFAST_TEST_EMULATED"
        )
    else:
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed torch before a test and the fixtures that it is the first to ask for."""
    torch.manual_seed(0)
