"""Checkpoints are written whole or not at all, and every way of being wrong has its sentence."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from mmfast import checkpoint
from mmfast.checkpoint import (
    atomic_write,
    check_fingerprint,
    load_checkpoint,
    load_model_state,
    save_checkpoint,
)
from mmfast.errors import MmfastError

META = {"model": "toy", "dataset": "toys", "fingerprint": "f" * 64}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "best.safetensors"
    model = nn.Linear(3, 2)
    save_checkpoint(path, {f"model/{name}": t for name, t in model.state_dict().items()}, META)
    return path, model


def test_round_trip_of_types_views_and_shared_memory(tmp_path):
    table = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    tensors = {
        "whole": table,
        "again": table,
        "row": table[1],
        "column": table[:, 2],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "flags": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "trained": nn.Parameter(torch.ones(2)),
    }
    save_checkpoint(tmp_path / "c.safetensors", tensors, {"epoch": 3, "nested": {"a": [1, None]}})
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.meta["epoch"] == 3
    assert loaded.meta["nested"] == {"a": [1, None]}
    assert set(loaded.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_model_state_comes_back(saved):
    path, model = saved
    other = nn.Linear(3, 2)
    load_model_state(other, load_checkpoint(path), "toy")
    assert torch.equal(other.weight, model.weight)


def test_a_missing_file(tmp_path):
    with pytest.raises(MmfastError, match="does not exist; train again"):
        load_checkpoint(tmp_path / "best.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_truncated_file(saved, keep):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MmfastError, match="is damaged: it cannot be read"):
        load_checkpoint(path)


def test_one_flipped_bit(saved):
    path, _ = saved
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(MmfastError, match="is damaged: its content is not what was written"):
        load_checkpoint(path)


def test_a_foreign_safetensors_file(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(MmfastError, match="is a safetensors file but not a checkpoint of mmfast"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_a_later_format(tmp_path):
    header = json.dumps({"format": checkpoint.FORMAT, "version": 99})
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"mmfast": header})
    with pytest.raises(MmfastError, match="has format version 99 but this mmfast reads version 1"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_other_data(saved):
    path, _ = saved
    check_fingerprint(load_checkpoint(path), "toys", "f" * 64)
    with pytest.raises(
        MmfastError, match=r"trained on other data: 'toys' \(fingerprint f{12}\).*'baby' has fingerprint 0{12}"
    ):
        check_fingerprint(load_checkpoint(path), "baby", "0" * 64)


def test_another_model(saved):
    path, _ = saved
    with pytest.raises(MmfastError, match="holds the model 'toy', but 'lightgcn' was asked; use model=toy"):
        load_model_state(nn.Linear(3, 2), load_checkpoint(path), "lightgcn")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Linear(4, 2),
            r"'weight' has shape \(2, 3\); the model wants \(2, 4\)\. Use the config it was trained with",
        ),
        (nn.Linear(3, 2, bias=False), "it has 'bias', unknown to this model"),
        (nn.Sequential(nn.Linear(3, 2)), r"it lacks '0\.weight', '0\.bias'.*it has 'weight', 'bias'|it lacks '0"),
    ],
)
def test_a_model_of_another_shape(saved, model, message):
    path, _ = saved
    with pytest.raises(MmfastError, match=message):
        load_model_state(model, load_checkpoint(path), "toy")


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_the_old_file(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def no_space(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", no_space)
    with pytest.raises(MmfastError, match="No space left on device; the former file is intact"):
        save_checkpoint(path, {"model/weight": torch.zeros(5)}, META)
    assert path.read_bytes() == before
    assert files(path.parent) == ["best.safetensors"]
    with pytest.raises(MmfastError, match="No space left on device; no file was left"):
        save_checkpoint(path.with_name("new.safetensors"), {"a": torch.zeros(5)}, META)
    assert files(path.parent) == ["best.safetensors"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MmfastError, match=r"cannot write '.*/file/a\.txt': .*nothing half written was left"):
        checkpoint.write_text(tmp_path / "file" / "a.txt", "text")
    assert files(tmp_path) == ["file"]


def test_a_file_size_limit_leaves_the_old_file(saved):
    path, _ = saved
    before = path.read_bytes()
    code = (
        "import resource, sys, torch\n"
        "from mmfast.checkpoint import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    save_checkpoint(sys.argv[1], {'a': torch.zeros(100_000)}, {})\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    root = Path(checkpoint.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=root
    )
    assert "File too large" in result.stdout
    assert "the former file is intact" in result.stdout
    assert path.read_bytes() == before
    assert files(path.parent) == ["best.safetensors"]


def test_an_interruption_while_writing_leaves_nothing(tmp_path):
    def interrupted(work):
        work.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.txt", interrupted)
    assert files(tmp_path) == []


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        save_checkpoint(tmp_path / "a.safetensors", {"a": torch.ones(1)}, {})
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
