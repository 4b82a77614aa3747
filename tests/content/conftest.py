"""Tiny models and a shop for the tests of the content room, which never asks the network for anything."""

from __future__ import annotations

import os
import tempfile

import pytest

# Read when huggingface_hub is imported, which no test has done yet: what the user has fetched is not there.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = os.path.join(tempfile.gettempdir(), "mmfast-tests-no-hub")
os.environ["HF_HUB_CACHE"] = os.path.join(os.environ["HF_HOME"], "hub")

from tests.content import tiny
from tests.content.treebank import trained_parser


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the store of every test to itself."""
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of Hugging Face's hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """An open_clip folder of a tiny model."""
    return tiny.save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def sentence_folder(tmp_path_factory):
    """A sentence-transformers folder of a tiny model."""
    return tiny.save_sentence(tmp_path_factory.mktemp("models") / "sentence")


@pytest.fixture(scope="session")
def parser(tmp_path_factory):
    """The folder of a pipeline trained on the toy treebank."""
    return trained_parser(tmp_path_factory.mktemp("parser"))


@pytest.fixture
def shop(tmp_path):
    """A prepared folder of 20 items without features, and the folder of their photos."""
    return tiny.write_shop(tmp_path / "shop")
