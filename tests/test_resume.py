"""A run killed at any moment and resumed equals, bit by bit, a run that was never interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from mmfast import checkpoint, training
from mmfast.checkpoint import load_checkpoint
from mmfast.config import load_config
from mmfast.data.prepared import write_prepared
from mmfast.errors import MmfastError
from mmfast.logs import read_log
from mmfast.run import Run, with_data_place
from mmfast.trainer import fit
from tests.toys import toy_config, toy_dataset

ROOT = Path(__file__).parent.parent
EPOCHS = 5
CHILD = """
import sys
from pathlib import Path
from tests.test_resume import long_run
long_run(Path(sys.argv[1]), resume=sys.argv[2] == "resume")
"""


class Killed(BaseException):
    """Stands for a process that ends here."""


def killed_in_step(patch, moment):
    """Let the process end in the `moment`-th optimiser step from now."""
    step, steps = training.Framework.step, iter(range(1, 1000))

    def dying(self, batch, optimizer):
        if next(steps) == moment:
            raise Killed
        return step(self, batch, optimizer)

    patch.setattr(training.Framework, "step", dying)


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        first, second = load_checkpoint(a / name), load_checkpoint(b / name)
        assert first.tensors.keys() == second.tensors.keys()
        assert all(torch.equal(first.tensors[key], second.tensors[key]) for key in first.tensors), name
    assert json.loads((a / "metrics.json").read_text()) == json.loads((b / "metrics.json").read_text())
    assert pl.read_parquet(a / "per_user.parquet").equals(pl.read_parquet(b / "per_user.parquet"))
    timeless = [
        [{key: v for key, v in row.items() if "seconds" not in key and key != "peak_bytes"} for row in read_log(folder)]
        for folder in (a, b)
    ]
    assert timeless[0] == timeless[1]


def long_run(out: Path, resume: bool):
    train = {"epochs": 60, "patience": 60, "checkpoint_every": 3}
    config = toy_config(out, name="long", threads=1, train=train)
    return fit(config, toy_dataset(), resume=out / "runs/long" if resume else None, progress=False)


def config_of(tmp_path, name, **train):
    return toy_config(tmp_path, name=name, train={"epochs": EPOCHS, "lr_decay": [0.96, 50], **train})


@pytest.mark.parametrize(("every", "after"), [(1, False), (2, True)], ids=["before", "after"])
def test_death_at_every_write(tmp_path, monkeypatch, every, after):
    dataset = toy_dataset()
    whole = fit(config_of(tmp_path, "whole", checkpoint_every=every), dataset, progress=False)
    replace = os.replace
    for moment in range(2, 40):
        count = 0

        def dying(source, target, moment=moment):
            nonlocal count
            count += 1
            if count == moment and not after:
                raise Killed
            replace(source, target)
            if count == moment:
                raise Killed

        name = f"killed-{moment}"
        monkeypatch.setattr(checkpoint.os, "replace", dying)
        try:
            fit(config_of(tmp_path, name, checkpoint_every=every), dataset, progress=False)
            break
        except Killed:
            monkeypatch.setattr(checkpoint.os, "replace", replace)
            resumed = fit(None, dataset, resume=tmp_path / "runs" / name, progress=False)
            assert_same_run(whole.folder, resumed.folder)
    assert moment > EPOCHS // every + 3  # every write of the run was one of the moments


def test_death_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    dataset = toy_dataset()
    whole = fit(config_of(tmp_path, "whole", checkpoint_every=2), dataset, progress=False)
    step = training.Framework.step
    for moment in (1, 6, 15, 20):
        steps = iter(range(1, 1000))

        def dying(self, batch, optimizer, steps=steps, moment=moment):
            if next(steps) == moment:
                raise Killed
            return step(self, batch, optimizer)

        monkeypatch.setattr(training.Framework, "step", dying)
        with pytest.raises(Killed):
            fit(config_of(tmp_path, f"killed-{moment}", checkpoint_every=2), dataset, progress=False)
        monkeypatch.setattr(training.Framework, "step", step)
        resumed = fit(None, dataset, resume=tmp_path / f"runs/killed-{moment}", progress=False)
        assert_same_run(whole.folder, resumed.folder)


def test_sigkill_at_random_moments(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "killed/runs/long/log.jsonl"
    chance = random.Random(7)

    def start(mode):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "killed"), mode]
        return subprocess.Popen(command, cwd=ROOT, env=environment)

    def rows():
        return log.read_bytes().count(b"\n") if log.exists() else 0

    for mode in ("new", "resume"):
        before = rows()
        life = start(mode)
        while life.poll() is None and rows() == before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        life.send_signal(signal.SIGKILL)
        assert life.wait() == -signal.SIGKILL
    assert start("resume").wait() == 0
    whole = long_run(tmp_path / "whole", resume=False)
    assert_same_run(whole.folder, log.parent)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    dataset = toy_dataset()
    run = fit(config_of(tmp_path, "done"), dataset, progress=False)
    (run.folder / ".last.safetensors.abc.part").write_bytes(b"what a killed process left")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.name[0] != "."}
    again = fit(None, dataset, resume=run.folder, progress=False)
    assert again.metrics == run.metrics
    assert {name: (run.folder / name).read_bytes() for name in before} == before
    assert not list(run.folder.glob(".*"))


def test_the_environment_of_the_start_is_kept_beside_those_of_later_parts(tmp_path, monkeypatch):
    dataset = toy_dataset()
    run = fit(config_of(tmp_path, "moved"), dataset, progress=False)
    path = run.folder / "environment.json"
    first = json.loads(path.read_text())
    fit(None, dataset, resume=run.folder, progress=False)
    assert json.loads(path.read_text()) == first
    monkeypatch.setattr("mmfast.trainer.environment", lambda config, device: {**first, "device_name": "another"})
    for _ in range(2):
        fit(None, dataset, resume=run.folder, progress=False)
    assert json.loads(path.read_text()) == {**first, "resumed": [{**first, "device_name": "another"}]}
    path.write_text("{")
    with pytest.raises(MmfastError, match=r"environment.json' is damaged \(not JSON\); remove it and resume"):
        fit(None, dataset, resume=run.folder, progress=False)


def test_a_run_may_be_extended(tmp_path):
    dataset = toy_dataset()
    whole = fit(config_of(tmp_path, "whole", epochs=9), dataset, progress=False)
    short = config_of(tmp_path, "short", epochs=5)
    fit(short, dataset, progress=False)
    longer = config_of(tmp_path, "short", epochs=9)
    run = fit(longer, dataset, resume=tmp_path / "runs/short", progress=False)
    assert_same_run(whole.folder, run.folder)


def test_an_extended_run_that_is_killed_keeps_its_new_length(tmp_path, monkeypatch):
    dataset = toy_dataset()
    whole = fit(config_of(tmp_path, "whole", epochs=9), dataset, progress=False)
    short = fit(config_of(tmp_path, "short"), dataset, progress=False)
    longer = config_of(tmp_path, "short", epochs=9).model_copy(update={"name": "other", "out": "elsewhere"})
    with monkeypatch.context() as patch:
        killed_in_step(patch, 9)
        with pytest.raises(Killed):
            fit(longer, dataset, resume=short.folder, progress=False)
    stored = load_config(short.folder / "config.yaml")
    assert (stored.train.epochs, stored.name, stored.out) == (9, "short", str(tmp_path / "runs"))
    run = fit(None, dataset, resume=short.folder, progress=False)
    assert run.metrics["epochs"] == 9
    assert_same_run(whole.folder, run.folder)


def test_an_extension_that_fails_at_once_leaves_a_finished_run(tmp_path, monkeypatch):
    dataset = toy_dataset()
    short = fit(config_of(tmp_path, "short"), dataset, progress=False)
    longer = config_of(tmp_path, "short", epochs=9)
    with monkeypatch.context() as patch:
        killed_in_step(patch, 2)
        with pytest.raises(Killed):
            fit(longer, dataset, resume=short.folder, progress=False)
    assert Run.load(short.folder, dataset).metrics == short.metrics
    with monkeypatch.context() as patch:
        killed_in_step(patch, 6)  # after the first new checkpoint, of epoch 6
        with pytest.raises(Killed):
            fit(longer, dataset, resume=short.folder, progress=False)
    with pytest.raises(MmfastError, match="is not finished"):
        Run.load(short.folder, dataset)


def test_a_best_model_beyond_the_results_is_not_finished(tmp_path):
    dataset = toy_dataset()
    run = fit(config_of(tmp_path, "mine"), dataset, progress=False)
    results = json.loads((run.folder / "metrics.json").read_text())
    (run.folder / "metrics.json").write_text(json.dumps(results | {"best_epoch": results["best_epoch"] - 1}))
    with pytest.raises(MmfastError, match="is not finished"):
        Run.load(run.folder, dataset)


def test_a_damaged_last_checkpoint_says_what_helps(tmp_path):
    dataset = toy_dataset()
    run = fit(config_of(tmp_path, "mine"), dataset, progress=False)
    last = run.folder / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(MmfastError, match=r"cannot be continued: start a new one; its best model .* `mmfast evaluate "):
        fit(None, dataset, resume=run.folder, progress=False)
    assert Run.load(run.folder, dataset).metrics == run.metrics
    (run.folder / "metrics.json").unlink()
    with pytest.raises(MmfastError, match=r"cannot be continued: start a new one$"):
        fit(None, dataset, resume=run.folder, progress=False)


def test_resuming_refuses_other_settings(tmp_path):
    dataset = toy_dataset()
    run = fit(config_of(tmp_path, "mine"), dataset, progress=False)
    other = config_of(tmp_path, "mine", batch_size=16)
    with pytest.raises(MmfastError, match=r"started with other settings: train\.batch_size was 32, now 16\. Resume it"):
        fit(other, dataset, resume=run.folder, progress=False)
    with pytest.raises(MmfastError, match="trained on other data"):
        fit(None, toy_dataset(shift=1), resume=run.folder, progress=False)
    with pytest.raises(MmfastError, match="is not a run folder"):
        fit(None, dataset, resume=tmp_path / "nowhere", progress=False)


def test_a_best_checkpoint_of_a_later_epoch_is_not_reported(tmp_path, monkeypatch):
    dataset = toy_dataset()
    fit(config_of(tmp_path, "mine", epochs=2), dataset, progress=False)
    folder = tmp_path / "runs/mine"
    kept = load_checkpoint(folder / "best.safetensors")
    meta = {key: value for key, value in kept.meta.items() if key not in ("format", "version", "checksum")}
    checkpoint.save_checkpoint(folder / "best.safetensors", kept.tensors, meta | {"epoch": 4})
    with pytest.raises(MmfastError, match=r"is of epoch 5 .* resume it with train\.epochs of at least 5"):
        fit(None, dataset, resume=folder, progress=False)


def test_the_config_in_the_folder_reloads_to_itself(tmp_path):
    run = fit(config_of(tmp_path, "mine"), toy_dataset(), progress=False)
    resumed = fit(None, toy_dataset(), resume=run.folder, progress=False)
    stored = toy_config(tmp_path, name="mine", train=run.config.train.model_dump())
    assert resumed.config == run.config == with_data_place(stored)
    assert load_config(run.folder / "config.yaml") == run.config


def write_shop(root):
    """A prepared folder with the toy data."""
    dataset = toy_dataset()
    parts = [(dataset.train, 0), (dataset.valid, 1), (dataset.test, 2)]
    rows = pl.concat([pl.DataFrame({"user": p.users, "item": p.items, "split": [k] * len(p)}) for p, k in parts])
    users, items = pl.DataFrame({"id": dataset.user_ids}), pl.DataFrame({"id": dataset.item_ids})
    return write_prepared(root / "shop", name="shop", rows=rows, users=users, items=items)


@pytest.mark.parametrize("name", ["shop", "./store/shop"])
def test_a_run_finds_its_data_from_another_folder(tmp_path, monkeypatch, name):
    write_shop(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMFAST_DATA", "store")
    run = fit(toy_config(tmp_path, name="far", data={"name": name}), progress=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("MMFAST_DATA")
    assert Run.load(run.folder).dataset.fingerprint == run.dataset.fingerprint
    assert fit(None, resume=run.folder, progress=False).metrics == run.metrics


def test_data_that_moved_are_found_by_the_environment(tmp_path, monkeypatch):
    write_shop(tmp_path / "old")
    config = toy_config(tmp_path, name="moved", data={"name": "shop", "root": str(tmp_path / "old")})
    run = fit(config, progress=False)
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(MmfastError, match="unknown data set 'shop'"):
        Run.load(run.folder)
    monkeypatch.setenv("MMFAST_DATA", str(tmp_path / "new"))
    assert Run.load(run.folder).metrics == run.metrics
    longer = fit(load_config(run.folder / "config.yaml", ["train.epochs=5"]), resume=run.folder, progress=False)
    assert longer.config.data.root == str(tmp_path / "new")
    assert load_config(run.folder / "config.yaml") == longer.config
