"""configs/elec_freedom_ptm.yaml on a synthetic shop of Electronics' shape: both stages, a kill, two resumes, memory.

python bench/ptmrec_elec.py --work FOLDER                  63,001 items with photos of 32 pixels, 20 steps of each stage
python bench/ptmrec_elec.py --work FOLDER --shape tiny     to try the script

The config is the file as it stands, but for the data, the CLIP (random, 9 blocks of width 64, float32: a CPU without
bfloat16 units is slow in it) and the epochs. Every part runs in a process of its own: stage 1 and half of stage 2's
first epoch, killed; the rest, resumed; a second epoch, resumed. FOLDER keeps the shop, so that a second call starts at
once; about 0.6 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from _common import shapes
from _origin import json_line
from _ptmrec import MODELS_OF_CLIP
from _shop import write_clip, write_shop

from mmfast.config import load_config
from mmfast.data.sampler import Sampler
from mmfast.frameworks.ptmrec.framework import FIRST, PTMRec
from mmfast.logs import read_log
from mmfast.trainer import fit

CONFIG = Path(__file__).parent.parent / "configs" / "elec_freedom_ptm.yaml"
PAIRS = {"elec": 1_689_188, "tiny": 5_000}  # all interactions, published for Electronics
PARTS = ("killed", "resumed", "again")


def main() -> None:
    """Make the shop where it is not there yet, run the three parts, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the shop, the cache and the run")
    parser.add_argument("--shape", choices=PAIRS, default="elec")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of an epoch, in both stages")
    parser.add_argument("--side", type=int, default=32, help="pixels of a photo, and of what CLIP sees")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work is None:
        parser.error("--work FOLDER is missing")
    os.environ["MMFAST_CACHE"] = str(chosen.work / "cache")
    if chosen.part:
        train(chosen)
        return
    line = {"bench": "ptmrec_elec", "shape": chosen.shape, "side": chosen.side, "steps": chosen.steps}
    line |= {"threads": chosen.threads, "clip": "small", "shop_s": make(chosen)}
    shutil.rmtree(chosen.work / "run", ignore_errors=True)
    for part in PARTS:
        line |= spawned(part, killed=part == PARTS[0])
    line |= figures(chosen.work / "run")
    print(json_line(line) if chosen.json else json.dumps(line, indent=1))


def make(chosen: argparse.Namespace) -> float:
    """Write the shop and the CLIP unless they are there; return the seconds."""
    started, sizes = time.perf_counter(), shapes[chosen.shape]
    if not (chosen.work / "shop").is_dir():
        write_shop(chosen.work / "shop", sizes, PAIRS[chosen.shape], chosen.side)
    if not (chosen.work / "clip").is_dir():
        small = MODELS_OF_CLIP["small"]
        write_clip(chosen.work / "clip", {**small, "vision_cfg": {**small["vision_cfg"], "image_size": chosen.side}})
    return time.perf_counter() - started


def spawned(part: str, killed: bool) -> dict[str, float]:
    """Run a part in a process of its own; return its seconds and its highest resident memory."""
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, *sys.argv, "--part", part])
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != (-signal.SIGKILL if killed else 0):
        raise SystemExit(f"the part '{part}' ended with {code}")
    return {f"{part}_s": time.perf_counter() - started, f"{part}_peak_bytes": usage.ru_maxrss * 1024}


def train(chosen: argparse.Namespace) -> None:
    """Run one part: an epoch is `steps` batches long, and the first part dies half-way through stage 2's first."""
    torch.set_num_threads(chosen.threads)
    whole = Sampler.steps.fget
    Sampler.steps = property(lambda sampler: min(whole(sampler), chosen.steps))
    if chosen.part == PARTS[0]:
        die_after(chosen.steps // 2)
    own = [f"data={chosen.work / 'shop'}", f"framework.encoder=clip:{chosen.work / 'clip'}", "device=cpu",
           "framework.precision=float32", f"threads={chosen.threads}", f"out={chosen.work}", "name=run",
           "framework.first.epochs=1",
           f"train.epochs={1 + (chosen.part == PARTS[2])}", "train.checkpoint_seconds=0"]  # fmt: skip
    run = chosen.work / "run"
    fit(load_config(CONFIG, own), resume=run if run.is_dir() else None, test=False)


def die_after(steps: int) -> None:
    """Let this process be killed in the step of stage 2 that follows `steps` others."""
    backward, done = PTMRec.backward, iter(range(10**9))

    def dying(self, batch, loss):
        if self.tuned and next(done) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return backward(self, batch, loss)

    PTMRec.backward = dying


def figures(run: Path) -> dict[str, float]:
    """Return seconds per step and per evaluation of both stages, and what was reached."""
    rows = {"first": read_log(run / FIRST), "second": read_log(run)}
    stages = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["stages"]
    found = {}
    for name, log in rows.items():
        found[f"{name}_epochs"] = len(log)
        found[f"{name}_epoch_s"] = log[-1]["seconds"]
        found[f"{name}_evaluation_s"] = log[-1]["total_seconds"] - log[-1]["seconds"]
        found[f"{name}_peak_bytes"] = log[-1]["peak_bytes"]
        found[f"{name}_recall@20"] = stages[name]["valid"]["recall@20"]
    return {**found, "loss": rows["second"][-1]["loss"]}


if __name__ == "__main__":
    main()
