"""Registries know the names of their files without importing them, and refuse a name that is taken."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

from mmfast.errors import MmfastError
from mmfast.registry import DATASETS, FRAMEWORKS, MODELS, Registry


@pytest.mark.parametrize("registry", [MODELS, FRAMEWORKS, DATASETS], ids=lambda registry: registry.kind)
def test_the_names_read_from_the_files_are_those_that_they_register(registry):
    package = import_module(registry.package)
    for module in pkgutil.walk_packages(package.__path__, f"{registry.package}."):
        import_module(module.name)
    own = {name: entry for name, entry in registry._entries.items() if entry.__module__.startswith(registry.package)}
    assert {name: entry.__module__ for name, entry in own.items()} == registry._homes


def test_a_model_lies_in_the_file_of_its_name():
    assert {name: home.rpartition(".")[2] for name, home in MODELS._homes.items()} == {n: n for n in MODELS._homes}
    assert len(MODELS._homes) == 18


def test_an_unknown_name_is_told_with_the_names_of_all_files():
    with pytest.raises(MmfastError, match=r"unknown model 'lightgnc'\. Did you mean 'lightgcn'\? Known: bm3, bpr, "):
        Registry("model", "mmfast.models").get("lightgnc")


def test_a_name_of_the_package_cannot_be_taken():
    with pytest.raises(MmfastError, match=r"model 'bpr' is registered twice: by mmfast\.models\.bpr and by tests\."):

        @MODELS.register("bpr")
        class Mine:
            pass
