"""Start-up, epoch and evaluation time of a model at a data set's shape, against eager PyTorch in the same run.

python bench/train.py --model freedom                     Baby's shape, synthetic interactions and features
python bench/train.py --model lightgcn --data baby        real interactions, synthetic features where missing
python bench/train.py --model mentor --no-reference --batches 5 --epochs 1 --evaluations 1       a glance at a slow one
python bench/train.py --model freedom --shape elec --warm-up 587 --batches 100 --no-alternatives   all rows have moments

A table whose rows wait for their optimizer step (docs/row_lazy_adam.md) has nothing to make up in a row that no batch
has touched yet, so an epoch extrapolated after a few batches comes out short. It takes a whole epoch, ceil(interactions
/ batch size), to touch every row that training touches: of 2,048, 59 batches at Baby, 107 Sports, 587 Electronics.

Alternatives: the same model on the plain-PyTorch ops and, where bench/_plain.py has it, as the field writes it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from _common import shapes
from _data import shaped_dataset, write_dataset
from _origin import json_line
from _plain import NAMES as PLAIN
from _plain import epoch_seconds, evaluation_seconds

from mmfast.config import build_config
from mmfast.data.load import load_dataset
from mmfast.device import keep_freed_memory
from mmfast.evaluate import evaluate
from mmfast.memory import PeakMemory, memory_need
from mmfast.ops import use_backend
from mmfast.registry import MODELS
from mmfast.seeds import derive_generator
from mmfast.training import build_training

EVALUATED = ("tiny", "baby", "sports")  # shapes at which the alternatives' evaluation ends within minutes
# Seconds of one epoch and one evaluation of MMRec in its default configs, measured on another two-core machine (2.7
# GHz, AVX-512; 358 GFLOP/s float32, 32.5 GB/s): (model, layers where several were measured, shape). Ratios to them
# compare machines too; believe those of one run.
MMREC_ELSEWHERE = {
    ("bpr", None, "baby"): (0.9, 1.96),
    ("lightgcn", 1, "baby"): (2.9, 2.08),
    ("lightgcn", 3, "baby"): (5.6, 2.23),
    ("vbpr", None, "baby"): (4.0, 2.12),
    ("freedom", 2, "baby"): (20.4, 2.19),
    ("bm3", None, "baby"): (21.5, 2.11),
    ("mgcn", None, "baby"): (24.4, 2.51),
    ("lgmrec", None, "baby"): (50.0, 2.65),
    ("smore", None, "baby"): (27.5, 2.53),
    ("slmrec", None, "baby"): (22.2, 2.19),
    ("lattice", None, "baby"): (28.9, 29.18),
    ("grcn", None, "baby"): (64.7, 2.02),
    ("mmgcn", None, "baby"): (86.3, 2.06),
    ("lirdrec", None, "baby"): (25.9, 2.05),
    ("mentor", None, "baby"): (368.0, 2.22),
    ("lightgcn", 2, "elec"): (811.0, None),
    ("freedom", 2, "elec"): (2152.0, None),
}


def configuration(args: argparse.Namespace) -> dict:
    """Return the raw config of the case."""
    model = {"name": args.model}
    if args.layers is not None:
        model["num_layers"] = args.layers
    return {"model": model, "train": {"batch_size": args.batch_size}, "tensorboard": False}


def epoch(run, epoch_index: int, max_batches: int) -> float:
    """Return the seconds of one epoch, extrapolated by the mean step when `max_batches` ends it early."""
    run.framework.train()
    started = time.perf_counter()
    run.framework.on_epoch_start(epoch_index, derive_generator(0, epoch_index))
    first, done = time.perf_counter(), 0
    for batch in run.sampler.epoch(epoch_index):
        run.framework.step(batch, run.optimizer)
        done += 1
        if done == max_batches:
            break
    ended = time.perf_counter()
    run.optimizer.flush()
    return first - started + (ended - first) / done * run.sampler.steps + time.perf_counter() - ended


def ours(args: argparse.Namespace, folder: Path) -> dict:
    """Return start-up, epoch and evaluation of mmfast."""
    config = build_config(configuration(args))
    with PeakMemory(torch.device("cpu")) as memory:
        started = time.perf_counter()
        dataset = load_dataset(str(folder))
        run = build_training(config, dataset, Path(), torch.device("cpu"))
        startup = time.perf_counter() - started
    startup_bytes, need = memory.bytes, memory_need(run.framework, dataset).parts
    with PeakMemory(torch.device("cpu")) as memory:
        epoch(run, 0, args.warm_up)  # first steps allocate moments and scratch
        epochs = [epoch(run, 1 + e, args.batches or 10**9) for e in range(args.epochs)]
    model = run.framework.model
    evaluate(model, dataset, "valid")
    evaluations = []
    for _ in range(args.evaluations):
        started = time.perf_counter()
        evaluate(model, dataset, "valid")
        evaluations.append(time.perf_counter() - started)
    return {
        "startup_s": startup,
        "startup_peak_bytes": startup_bytes,
        "epoch_s": statistics.median(epochs),
        "epoch_spread_s": max(epochs) - min(epochs),
        "eval_s": statistics.median(evaluations),
        "eval_spread_s": max(evaluations) - min(evaluations),
        "peak_bytes": memory.bytes,
        "estimated_peak_bytes": sum(need.values()) - need["best model"],  # no model is kept here
        "estimated_step_bytes": need["a step"],
    }


def reference_backend(args: argparse.Namespace, folder: Path) -> dict:
    """Return epoch and evaluation seconds of the same model on the plain-PyTorch ops."""
    with use_backend("reference"):
        dataset = load_dataset(str(folder))
        run = build_training(build_config(configuration(args)), dataset, Path(), torch.device("cpu"))
        result = {"epoch_s": epoch(run, 0, args.reference_batches)}
        if args.shape in EVALUATED:
            started = time.perf_counter()
            evaluate(run.framework.model, dataset, "valid")
            result["eval_s"] = time.perf_counter() - started
        return result


def plain(args: argparse.Namespace, folder: Path) -> dict:
    """Return epoch and evaluation seconds of the model as the field writes it."""
    dataset = load_dataset(str(folder))
    options = {} if args.layers is None else {"num_layers": args.layers}
    seconds, model = epoch_seconds(args.model, dataset, args.batch_size, args.reference_batches, **options)
    return {"epoch_s": seconds} | ({"eval_s": evaluation_seconds(model, dataset)} if args.shape in EVALUATED else {})


def measured(args: argparse.Namespace) -> dict:
    """Return the case: our figures, their ratios to the alternatives of this run, and MMRec's of another machine."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "prepared"
        write_dataset(shaped_dataset(args.shape, args.data, Path(work)), folder)
        case = {"bench": "train", "case": f"{args.model} {args.shape}", "device": "cpu", "threads": args.threads}
        case |= {"layers": args.layers, "extrapolated_from_batches": args.batches, "warm_up_batches": args.warm_up}
        case |= ours(args, folder)
        others = {} if args.no_alternatives or args.no_reference else {"reference backend": reference_backend}
        if args.model in PLAIN and not args.no_alternatives:
            others["plain eager"] = plain
        times = {f"{name} {part}": (part, s) for name, run in others.items() for part, s in run(args, folder).items()}
    case["ratios"] = {name.removesuffix("_s"): seconds / case[part] for name, (part, seconds) in times.items()}
    layers = args.layers if args.layers is not None else {"lightgcn": 2, "freedom": 2}.get(args.model)
    elsewhere = MMREC_ELSEWHERE.get((args.model, layers, args.shape))
    if elsewhere:
        case["mmrec_elsewhere"] = {"epoch_s": elsewhere[0], "epoch_ratio": elsewhere[0] / case["epoch_s"]}
        if elsewhere[1]:
            case["mmrec_elsewhere"] |= {"eval_s": elsewhere[1], "eval_ratio": elsewhere[1] / case["eval_s"]}
    return case


def show(case: dict) -> None:
    """Print the case for a reader."""
    print(
        f"{case['case']} ({case['threads']} threads): start-up {case['startup_s']:.2f} s "
        f"({case['startup_peak_bytes'] / 2**20:.0f} MiB), "
        f"epoch {case['epoch_s']:.3f} +- {case['epoch_spread_s']:.3f} s, "
        f"evaluation {case['eval_s']:.3f} +- {case['eval_spread_s']:.3f} s, peak {case['peak_bytes'] / 2**20:.0f} MiB "
        f"({case['estimated_peak_bytes'] / 2**20:.0f} estimated)"
    )
    for name, ratio in case["ratios"].items():
        print(f"  {ratio:6.1f}x  {name}")
    for name, value in case.get("mmrec_elsewhere", {}).items():
        print(f"  {value:6.2f}   MMRec on another machine: {name}")


def main() -> None:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS.names(), required=True)
    parser.add_argument("--shape", choices=list(shapes), default="baby")
    parser.add_argument("--data", type=Path, help="name or folder of a data set, for its interactions")
    parser.add_argument("--layers", type=int, help="propagation layers; the model's default otherwise")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=3, help="epochs measured; median and range are printed")
    parser.add_argument("--batches", type=int, help="end each epoch after so many batches and extrapolate")
    parser.add_argument("--warm-up", type=int, help="batches made before, at most an epoch; wants --no-alternatives")
    parser.add_argument("--evaluations", type=int, default=3)
    parser.add_argument("--reference-batches", type=int, default=6, help="batches of each alternative")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-reference", action="store_true", help="leave out the plain-PyTorch ops")
    parser.add_argument("--no-alternatives", action="store_true", help="measure mmfast alone")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.warm_up and not args.no_alternatives:
        parser.error("--warm-up wants --no-alternatives: those start with rows that no step has touched")
    args.warm_up = args.warm_up or min(args.batches or 5, 5)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    case = measured(args)
    print(json_line(case)) if args.json else show(case)


if __name__ == "__main__":
    main()
