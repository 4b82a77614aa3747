"""A tiny CLIP model for the tests of frameworks that read photos and texts."""

from __future__ import annotations

import os

import pytest

# Read when huggingface_hub is imported, which no test has done yet.
os.environ["HF_HUB_OFFLINE"] = "1"

from tests.content import tiny


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """An open_clip folder of a tiny model."""
    return tiny.save_clip(tmp_path_factory.mktemp("models") / "clip")
