"""What PTMRec's second stage gains over its first on the demo catalogue, for several backbones and seeds.

python bench/ptmrec_demo.py --work FOLDER                                    four backbones, three seeds, minutes each
python bench/ptmrec_demo.py --work FOLDER --models vbpr --seeds 1 --settings train.epochs=8 framework.kt_weight=0.1
python bench/ptmrec_demo.py --work FOLDER --settings framework.variant=clip-prompt train.epochs=200  joint from scratch

The figures are recall@20 on validation: `first`, `start` (prompts put in, no step yet), `second`. Stage 1 is trained
until it stops by itself (patience 20): where it ends by its last epoch (`first_ended`), stage 2 gains by mere training.
It is trained once per backbone and seed; other settings of stage 2 begin from the same one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

from _origin import json_line

from mmfast.config import RunConfig, load_config
from mmfast.frameworks.ptmrec.catalogue import FROZEN
from mmfast.frameworks.ptmrec.framework import FIRST
from mmfast.run import read_metrics
from mmfast.trainer import fit

CONFIG = Path(__file__).parent.parent / "configs" / "demo_freedom_ptm.yaml"
MODELS = ("vbpr", "freedom", "mgcn", "smore")
STAGE_1 = ["framework.first.epochs=1000", "framework.first.patience=20"]
MONITOR = "recall@20"


def main() -> None:
    """Print one JSON line per backbone and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the cache and the runs")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--settings", nargs="+", default=[], metavar="key=value", help="settings of stage 2")
    chosen = parser.parse_args()
    if chosen.work is None:
        parser.error("--work FOLDER is missing")
    os.environ.setdefault("MMFAST_CACHE", str(chosen.work / "cache"))
    for model in chosen.models:
        for seed in chosen.seeds:
            print(json_line(gain(model, seed, chosen)), flush=True)


def config_of(model: str, seed: int, out: Path, name: str, settings: list[str]) -> RunConfig:
    """Return the demo's config with another backbone."""
    own = [f"seed={seed}", f"out={out}", f"name={name}", "tensorboard=false"]
    return load_config(CONFIG, [f"model={model}", *STAGE_1, *settings, *own])


def gain(model: str, seed: int, chosen: argparse.Namespace) -> dict:
    """Return the monitored validation values of both stages of a run, new from stage 2 on."""
    first = chosen.work / f"{model}-{seed}-stage1"
    if not (first / "metrics.json").is_file():
        shutil.rmtree(first, ignore_errors=True)
        fit(config_of(model, seed, chosen.work, first.name, ["train.epochs=0"]), progress=False, test=False)
    folder = chosen.work / f"{model}-{seed}-stage2"
    shutil.rmtree(folder, ignore_errors=True)
    for part in (FIRST, FROZEN):
        shutil.copytree(first / part, folder / part)
    config = config_of(model, seed, chosen.work, folder.name, chosen.settings)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    started = time.perf_counter()
    fit(None, resume=folder, progress=False)
    found, before = read_metrics(folder), read_metrics(first / FIRST)
    values = {stage: metrics["valid"][MONITOR] for stage, metrics in found["stages"].items()}
    facts = {"first_ended": before["ended"], "first_epochs": before["epochs"], "best_epoch": found["best_epoch"]}
    test = {"test": found["test"][MONITOR], "stage": found["stage"], "second_s": time.perf_counter() - started}
    case = {"bench": "ptmrec_demo", "model": model, "seed": seed, "settings": chosen.settings}
    return {**case, **values, **facts, **test}


if __name__ == "__main__":
    main()
