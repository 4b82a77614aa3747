"""PEP 517 backend: setuptools, with torch among the build requirements only where the user has none."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from setuptools.build_meta import *  # noqa: F403
from setuptools.build_meta import get_requires_for_build_sdist as get_requires_for_build_sdist
from torch_paths import PINNED_TORCH, torch_facts


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """Return what the native build needs beyond setuptools."""
    tools = ["pybind11>=2.13", "ninja", "cmake>=3.22"]
    return tools if torch_facts() else [*tools, f"torch=={PINNED_TORCH}"]


get_requires_for_build_editable = get_requires_for_build_wheel
