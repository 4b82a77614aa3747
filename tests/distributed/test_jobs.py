"""Jobs that torchrun starts: one rank talks and writes, a killed one ends the job, and any number goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmfast.checkpoint import load_checkpoint
from mmfast.cli import main
from mmfast.trainer import fit
from tests.distributed.jobs import environment

SETTINGS = ["model=lightgcn", "data=demo", "train.epochs=4", "train.batch_size=512", "train.checkpoint_seconds=0"]
SETTINGS += ["train.monitor=recall@20", "device=cpu", "threads=1", "tensorboard=false"]
FOUR = ["distributed.plan=row", "train.epochs=2", "train.batch_size=1024"]
KILLS = int(os.environ.get("MMFAST_KILLS", "1"))  # of one of four processes, at random moments
END_SECONDS = 60  # in which a job must end after one of its processes was killed


def command(ranks: int, *arguments: str, restarts: int = 0) -> list[str]:
    """Return a command line that trains on `ranks` processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    launcher += ["--max-restarts", str(restarts)] if restarts else []
    return [sys.executable, *launcher, "-m", "mmfast.train", *arguments]


def start(folder: Path, ranks: int, *arguments: str, restarts: int = 0) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(ranks, *arguments, restarts=restarts), cwd=folder, env=environment(), **pipes)


def finished(folder: Path, ranks: int, *arguments: str) -> tuple[str, str]:
    job = start(folder, ranks, *arguments)
    out, err = job.communicate(timeout=280)
    assert job.returncode == 0, err
    return out, err


def workers(launcher: int) -> list[int]:
    """Return the processes that a launcher has started, by their rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranks = {}
    for child in children:
        settings = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        ranks |= {int(line.removeprefix("RANK=")): int(child) for line in settings if line.startswith("RANK=")}
    return [ranks[number] for number in sorted(ranks)]


def wait_for(path: Path, job: subprocess.Popen) -> None:
    end = time.monotonic() + 200
    while not path.is_file():
        assert job.poll() is None and time.monotonic() < end, job.communicate()[1]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job of two ranks that nothing disturbed: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "runs/job", *finished(folder, 2, *SETTINGS, "name=job")


def assert_same(one: Path, other: Path, exact: bool) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        got, want = load_checkpoint(one / name).tensors, load_checkpoint(other / name).tensors
        assert got.keys() == want.keys()
        for key in want:
            if exact:
                assert torch.equal(got[key], want[key]), key
            else:
                torch.testing.assert_close(got[key], want[key], rtol=1e-3, atol=1e-4)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    assert metrics[0] == metrics[1]


def test_the_first_rank_alone_talks_and_writes(whole):
    folder, out, err = whole
    assert out.count("best epoch") == 1 and err.count("epoch 4/4") == 1
    assert len((folder / "log.jsonl").read_text().splitlines()) == 4
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml", "environment.json", "log.jsonl", "best.safetensors", "last.safetensors", "metrics.json",
        "per_user.parquet",
    }  # fmt: skip


def test_after_a_rank_was_killed_any_number_of_them_goes_on(tmp_path, whole):
    job = start(tmp_path, 2, *SETTINGS, "name=job")
    folder = tmp_path / "runs/job"
    wait_for(folder / "last.safetensors", job)
    killed = time.monotonic()
    os.kill(workers(job.pid)[0], signal.SIGKILL)
    _, err = job.communicate(timeout=END_SECONDS)
    assert job.returncode != 0 and time.monotonic() - killed < END_SECONDS
    assert "Signal 9 (SIGKILL)" in err or "has lost another rank" in err
    assert not (folder / "metrics.json").is_file()
    shutil.copytree(folder, tmp_path / "runs/alone")
    finished(tmp_path, 2, "--resume", "runs/job")
    assert_same(folder, whole[0], exact=True)
    fit(None, resume=tmp_path / "runs/alone", progress=False)
    assert_same(tmp_path / "runs/alone", whole[0], exact=False)


def test_torchrun_starts_a_job_again_that_goes_on(tmp_path, whole):
    job = start(tmp_path, 2, *SETTINGS, "name=job", restarts=1)
    folder = tmp_path / "runs/job"
    wait_for(folder / "last.safetensors", job)
    os.kill(workers(job.pid)[1], signal.SIGKILL)
    _, err = job.communicate(timeout=280)
    assert job.returncode == 0, err
    assert f"resuming {Path('runs/job')}" in err
    assert_same(folder, whole[0], exact=True)


def test_a_job_that_may_start_again_needs_a_name(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    assert main(["train", *SETTINGS]) == 2
    assert "torchrun --max-restarts needs name=NAME" in capsys.readouterr().err


def begin_or_resume(folder: Path) -> list[str]:
    """Return the arguments that go on with the job below `folder`, or begin it where there is nothing to go on with."""
    if (folder / "runs/job/config.yaml").is_file():
        return ["--resume", "runs/job"]
    return [*SETTINGS, *FOUR, "name=job"]


def kill_one(job: subprocess.Popen, draw: random.Random) -> bool:
    """Kill one of a job's ranks, and wait for the job's end; whether there was one to kill."""
    ranks = workers(job.pid) if job.poll() is None else []
    if ranks:
        os.kill(draw.choice(ranks), signal.SIGKILL)
    job.communicate(timeout=END_SECONDS)
    return bool(ranks) and job.returncode != 0


def test_one_of_four_is_killed_at_random_moments(tmp_path):
    began = time.monotonic()
    finished(tmp_path, 4, *SETTINGS, *FOUR, "name=whole")
    seconds, kills, draw = time.monotonic() - began, 0, random.Random(KILLS)
    folder = tmp_path / "runs/job"
    while kills < KILLS:
        if (folder / "metrics.json").is_file():
            shutil.rmtree(folder)  # it had come to its end: once more
        job = start(tmp_path, 4, *begin_or_resume(tmp_path))
        time.sleep(draw.uniform(0.2, 0.9) * seconds)
        kills += kill_one(job, draw)
        for path in folder.glob("*.safetensors"):
            assert load_checkpoint(path).tensors
    finished(tmp_path, 4, *begin_or_resume(tmp_path))
    assert_same(folder, tmp_path / "runs/whole", exact=True)


def test_a_mistake_is_told_once(tmp_path):
    job = start(tmp_path, 2, *SETTINGS, "data.k_core=10000")
    _, err = job.communicate(timeout=200)
    assert job.returncode != 0
    assert err.count("mmfast: ") == 1, err
