"""A run that ends early: without a checkpoint or an artefact it leaves no folder, otherwise it can be continued."""

from __future__ import annotations

import shutil

import pytest

from mmfast.errors import MmfastError
from mmfast.frameworks.base import Framework
from mmfast.logs import read_log
from mmfast.trainer import fit
from tests.toys import toy_config, toy_dataset


def stop_at(patch, epoch, error):
    """Let the epochs from `epoch` on end by `error` in their first step."""
    step = Framework.step

    def stopped(self, batch, optimizer):
        if self.model.steps == 4 * epoch:  # batches an epoch
            raise error
        return step(self, batch, optimizer)

    patch.setattr(Framework, "step", stopped)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug in the model"), MmfastError("bad input")])
def test_a_run_that_ends_before_its_first_checkpoint_leaves_no_folder(tmp_path, monkeypatch, capsys, error):
    config = toy_config(tmp_path, name="mine", train={"checkpoint_every": 2}, tensorboard=True)
    for epoch in (0, 1):
        with monkeypatch.context() as patch:
            stop_at(patch, epoch, error)
            with pytest.raises(type(error)):
                fit(config, toy_dataset())
        assert not list((tmp_path / "runs").iterdir())
        assert f"'{tmp_path}/runs/mine' held nothing to continue and is removed" in capsys.readouterr().err
    assert fit(config, toy_dataset(), progress=False).metrics["epochs"] == 4


def test_a_run_that_ends_after_a_checkpoint_is_kept(tmp_path, monkeypatch, capsys):
    dataset, hint = toy_dataset(), f"continue with `mmfast train --resume {tmp_path}/runs/mine`"
    for error, told in ((KeyboardInterrupt(), True), (RuntimeError("a bug in the model"), False)):
        with monkeypatch.context() as patch:
            stop_at(patch, 2, error)
            with pytest.raises(type(error)):
                fit(toy_config(tmp_path, name="mine"), dataset)
        assert (hint in capsys.readouterr().err) == told
        run = fit(None, dataset, resume=tmp_path / "runs/mine", progress=False)
        assert [row["epoch"] for row in read_log(run.folder)] == [0, 1, 2, 3]
        shutil.rmtree(run.folder)


def test_an_artefact_of_a_framework_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Framework, "prepare", lambda self, fit: (fit.folder / "teacher.safetensors").touch())
    stop_at(monkeypatch, 0, RuntimeError("a bug in the model"))
    with pytest.raises(RuntimeError):
        fit(toy_config(tmp_path, name="mine"), toy_dataset(), progress=False)
    assert (tmp_path / "runs/mine/teacher.safetensors").exists()
