"""The memory that a run is told to need: its parts, the sentence that refuses it, and the way past that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfast import memory
from mmfast.config import build_config
from mmfast.errors import MmfastError
from mmfast.memory import free_memory, memory_need
from mmfast.trainer import fit
from mmfast.training import build_training
from tests.golden_case import golden
from tests.toys import toy_config, toy_dataset


def built(dataset, **model):
    return build_training(build_config({"model": model}), dataset, None, torch.device("cpu"))


@pytest.mark.parametrize("name", ["vbpr", "mgcn", "mmgcn"])
def test_parts_are_those_of_the_tensors_held(name):
    case = golden("mgcn")
    dataset = case.dataset()
    run = built(dataset, name=name, embedding_dim=16)
    parts = memory_need(run.framework, dataset).parts
    parameters = [p for p in run.framework.parameters() if p.requires_grad]
    frozen = sum(p.numel() * 4 for p in run.framework.parameters() if not p.requires_grad)
    assert parts["parameters"] - frozen == parts["gradients"] == sum(p.numel() * 4 for p in parameters)
    for batch in run.sampler.epoch(0):
        run.framework.step(batch, run.optimizer)
        break
    state = run.optimizer.state_dict()["state"].values()
    moments = sum(s[m].numel() * 4 for s in state for m in ("exp_avg", "exp_avg_sq"))
    assert 0 < moments <= parts["moments"] == 2 * parts["gradients"]
    tables = run.framework.model.step_tables * (1 + len(dataset.features))
    assert parts["a step"] == int(4 * (dataset.num_users + dataset.num_items) * 16 * tables)


def test_features_in_a_file_are_not_private_memory(tmp_path):
    dataset = golden("mgcn").dataset()
    held = memory_need(built(dataset, name="slmrec").framework, dataset).parts["graphs and features"]
    mapped = {}
    for modality, table in dataset.features.items():
        np.save(tmp_path / f"{modality}.npy", table)
        mapped[modality] = np.load(tmp_path / f"{modality}.npy", mmap_mode="r").view()
    dataset.__dict__["features"] = mapped
    of_files = memory_need(built(dataset, name="slmrec").framework, dataset).parts["graphs and features"]
    assert held - of_files == sum(table.nbytes for table in mapped.values())


def test_a_run_says_what_it_needs(tmp_path, capsys):
    fit(toy_config(tmp_path), toy_dataset())
    assert "on cpu, about 0.3 GiB of memory (program 0.25, parameters 0.00, gradients 0.00," in capsys.readouterr().err


def test_a_run_that_cannot_fit_is_refused_and_may_be_tried_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 200 << 20)
    sentence = r"training needs about 0\.3 GiB .*, but 0\.2 GiB are free on cpu; choose .* check_memory=false"
    with pytest.raises(MmfastError, match=sentence):
        fit(toy_config(tmp_path), toy_dataset())
    assert not any(tmp_path.rglob("config.yaml"))
    assert fit(toy_config(tmp_path, check_memory=False), toy_dataset()).metrics["epochs"] > 0


def test_an_unknown_limit_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    memory.check_memory(memory.MemoryNeed({"a step": 1 << 60}), torch.device("cpu"))


def test_free_memory_counts_what_the_process_holds():
    free = free_memory(torch.device("cpu"))
    assert free is None or 64 << 20 < free < 1 << 50
