"""What CKD adds to a training step at a data set's shape: VBPR + CKD and MGCN + CKD against the models alone.

python bench/ckd.py                          Baby's shape, synthetic interactions and features, two modalities
python bench/ckd.py --model vbpr --universal-items 1024 --batch-size 1024

A case is `--steps` optimiser steps, without evaluation; ratios are to the model alone and to CKD by whole passes, as a
plain implementation makes them. The teachers are tables of the model's own shape, for their training is not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import MethodType

import torch
from _common import emit, measure, shapes
from _data import shaped_dataset

from mmfast.config import build_config
from mmfast.data.dataset import Dataset
from mmfast.device import keep_freed_memory
from mmfast.models.base import Recommender
from mmfast.registry import MODELS
from mmfast.training import Training, build_training


def training(dataset: Dataset, args: argparse.Namespace, model: str, ckd: bool) -> Training:
    """Return a run of the model, with CKD whose teachers are tables of its first vectors or without."""
    options = {"universal_size": args.universal_size, "universal_items": args.universal_items}
    raw = {"model": {"name": model}, "train": {"batch_size": args.batch_size}}
    raw |= {"framework": {"name": "ckd", **options}} if ckd else {}
    run = build_training(build_config(raw), dataset, Path(), torch.device("cpu"))
    if ckd:
        framework = run.framework
        with torch.no_grad():
            framework.teachers = [framework.model.embed(hide=hide) for hide in framework.kept]
        framework.active_users = torch.arange(dataset.num_users)
    run.framework.train()
    run.framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    return run


def stepper(run: Training, steps: int) -> Callable[[], None]:
    """Return a function that makes the next `steps` steps."""
    batches = itertools.chain.from_iterable(run.sampler.epoch(epoch) for epoch in itertools.count())

    def advance() -> None:
        for batch in itertools.islice(batches, steps):
            run.framework.step(batch, run.optimizer)
        run.optimizer.flush()

    return advance


def by_whole_passes(run: Training) -> Training:
    """Let every pass of the model be computed on its own, for whole tables."""
    model = run.framework.model
    model.sharing = lambda hides: contextlib.nullcontext()
    model.margins = MethodType(Recommender.margins, model)
    return run


def main() -> None:
    """Measure each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS.names(), nargs="+", default=["vbpr", "mgcn"])
    parser.add_argument("--shape", choices=list(shapes), default="baby")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--universal-size", type=int, default=5000)
    parser.add_argument("--universal-items", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a busy machine, one thread")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as work:
        dataset = shaped_dataset(args.shape, None, Path(work))
        for name in args.model:
            others = {
                "alone": stepper(training(dataset, args, name, ckd=False), args.steps),
                "whole passes": stepper(by_whole_passes(training(dataset, args, name, ckd=True)), args.steps),
            }
            run = stepper(training(dataset, args, name, ckd=True), args.steps)
            pool = "" if args.universal_items is None else f" of {args.universal_items} items"
            case = f"{name} {args.shape}, {args.steps} steps of {args.batch_size} + {args.universal_size}{pool}"
            measured = measure("ckd", case, "step", run, others, repeat=args.repeat, clock=args.clock)
            measured["cost_of_alone"] = 1 / measured["ratios"]["alone"]
            emit(measured, args.json)
            if not args.json:
                print(f"  {measured['cost_of_alone']:.2f} times the model alone")


if __name__ == "__main__":
    main()
