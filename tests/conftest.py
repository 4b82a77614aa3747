"""Which tests are collected: those that only a GPU can decide are deselected, and reported so, where there is none."""

from __future__ import annotations

import pytest
import torch

from tests.kernels import DEVICE, EMULATED


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked `cuda` without a GPU, and under MMFAST_TEST_DEVICE, which makes every launch wait."""
    if torch.cuda.is_available() and DEVICE == "cpu" and not EMULATED:
        return
    gpu_only = [item for item in items if item.get_closest_marker("cuda")]
    if gpu_only:
        config.hook.pytest_deselected(items=gpu_only)
        items[:] = [item for item in items if not item.get_closest_marker("cuda")]
