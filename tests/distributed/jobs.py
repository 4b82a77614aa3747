"""Jobs of several ranks on one machine, and runs whose every step is recorded."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmfast.ranks import is_first, join_group, leave_ranks
from mmfast.training import Training

RANKS = 2


def on_ranks(folder: Path, function, *arguments, ranks: int = RANKS):
    """Return what `function(folder, *arguments)` returns on the first of `ranks` processes joined by gloo."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_rank, (ranks, folder, function, arguments), nprocs=ranks)
    return pickle.loads((folder / "result").read_bytes())


def _rank(number: int, ranks: int, folder: Path, function, arguments) -> None:
    torch.set_num_threads(1)
    join_group(dist.FileStore(str(folder / "meet"), ranks), number, ranks)
    result = function(folder, *arguments)
    if is_first():
        (folder / "result").write_bytes(pickle.dumps(result))
    leave_ranks()
    left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in left if "gloo" in name], "a thread of the group that outlives it can abort the process"


def recorded(run) -> tuple[list[dict[str, float]], object]:
    """Return the loss terms of every step that run() takes, and what it returns."""
    steps, step = [], Training.step

    def recording(self, batch):
        terms = step(self, batch)
        steps.append({name: float(term) for name, term in terms.items()})
        return terms

    Training.step = recording
    try:
        return steps, run()
    finally:
        Training.step = step


def assert_same_losses(got: list[dict[str, float]], want: list[dict[str, float]], tolerance: float = 1e-5) -> None:
    """Every term of every step agrees to `tolerance`, relative to the step's whole loss."""
    assert len(got) == len(want)
    for number, (one, other) in enumerate(zip(got, want, strict=True)):
        assert one.keys() == other.keys()
        whole = sum(abs(value) for value in other.values())
        for name in other:
            assert abs(one[name] - other[name]) <= tolerance * whole, (number, name, one[name], other[name])


def environment() -> dict[str, str]:
    """Return the environment of a child process that finds this repository."""
    root = str(Path(__file__).parents[2])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
