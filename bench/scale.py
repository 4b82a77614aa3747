"""One to several processes on this machine, against one process and `mmfast plan`; and its curve beyond, a simulation.

python bench/scale.py --model lightgcn --shape elec --ranks 1 2 4          strong scaling: the same data
python bench/scale.py --model bpr --shape baby --ranks 1 2 4 --weak        weak scaling: data that grow with the ranks
python bench/scale.py --model lightgcn --shape elec10 --ranks 2 --steps 100 --users 1000
python bench/scale.py --model lightgcn --simulate --threads 1              to 1,000 GPUs and a billion interactions

Interactions are power-law ones, drawn block by block. Ranks share the cores and the bandwidth of this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _common import Shape, shapes
from _data import FEATURE_DIMS, feature_files
from _origin import json_line

from mmfast.config import RunConfig, build_config
from mmfast.data.dataset import Dataset, Interactions
from mmfast.data.synthetic import power_law_blocks
from mmfast.device import keep_freed_memory
from mmfast.evaluate import evaluate
from mmfast.memory import PeakMemory
from mmfast.planning.estimate import PLANS, Estimate, Ranks, draw_out, estimates
from mmfast.planning.probe import Probe, Size, probe
from mmfast.ranks import gathered, join_group, leave_ranks
from mmfast.registry import MODELS
from mmfast.training import build_training

HELD_OUT = 0.15
ID_ONLY = ("bpr", "buir", "lightgcn")  # models that read no features: none are written
SIMULATED = ((1, 1), (1, 8), (10, 8), (10, 64), (100, 64), (100, 256), (830, 256), (830, 1000))
"""(times Electronics, ranks); 830 times its training part is a billion interactions."""


def write_data(shape: Shape, users: int, work: Path) -> None:
    """Write power-law interactions of a shape as arrays; `users` of them have a row to validate on."""
    parts: dict[str, list] = {"train": [], "valid": []}
    total = round(shape.num_edges / (1 - HELD_OUT * users / shape.num_users))
    rng = np.random.default_rng(3)
    for block in power_law_blocks(shape.num_users, shape.num_items, total):
        pairs = np.stack(block).astype(np.int32)
        held = (pairs[0] < users) & (rng.random(pairs.shape[1]) < HELD_OUT)
        parts["train"].append(pairs[:, ~held])
        parts["valid"].append(pairs[:, held])
    for part, blocks in parts.items():
        np.save(work / f"{part}.npy", np.concatenate(blocks, axis=1))


def read_data(shape: Shape, work: Path, features: dict) -> Dataset:
    """Return the interactions as a Dataset; the test part, which nobody looks at, is the validation part."""
    train, valid = (Interactions.from_pairs(*np.load(work / f"{part}.npy")) for part in ("train", "valid"))
    return Dataset("scale", shape.num_users, shape.num_items, train, valid, valid, features)


def rank_run(number: int, ranks: int, work: Path, args: argparse.Namespace, shape: Shape, plan: str) -> None:
    """Train and evaluate on one rank; the first writes what all have measured."""
    torch.set_num_threads(max(1, args.threads // ranks))
    keep_freed_memory()
    if ranks > 1:
        join_group(dist.FileStore(str(work / f"meet-{plan}-{ranks}"), ranks), number, ranks)
    files = {name: np.load(work / f"{name}.npy", mmap_mode="r") for name in widths(args)}
    with PeakMemory(torch.device("cpu")) as start:
        began = time.perf_counter()
        data = read_data(shape, work, files)
        run = build_training(configuration(args, plan), data, work, torch.device("cpu"))
        run.divide()
        startup = time.perf_counter() - began
    losses, seconds = [], []
    with PeakMemory(torch.device("cpu")) as train:
        run.framework.train()
        run.start_epoch(0)
        for batch in run.sampler.epoch(0):
            began = time.perf_counter()
            losses.append({name: float(term) for name, term in run.step(batch).items()})
            seconds.append(time.perf_counter() - began)
            if len(seconds) == args.steps:
                break
        run.optimizer.flush()
        began = time.perf_counter()
        found = evaluate(run.framework.model, data, "valid", run.config.evaluate)
        run.update_best(0, found.metrics)
        evaluation = time.perf_counter() - began
    peaks = [[start.bytes, train.bytes]] * ranks
    rate = None
    if ranks > 1:
        dist.all_gather_object(peaks, [start.bytes, train.bytes])
        rate = gather_rate(ranks)
        leave_ranks()
    if number == 0:
        quarter, median, upper = statistics.quantiles(seconds[len(seconds) // 10 :], n=4)
        measured = {"startup_s": startup, "step_s": median, "step_spread_s": upper - quarter, "eval_s": evaluation}
        measured |= {"epoch_s": median * run.sampler.steps, "peaks": peaks, "losses": losses, "gather_rate": rate}
        (work / "result.json").write_text(json.dumps(measured | {"metrics": found.metrics}))


def gather_rate(ranks: int) -> float:
    """Return the bytes a second that a rank receives in an all-gather of 64 MB."""
    own, times = torch.ones(16 << 20), []
    for _ in range(3):
        dist.barrier()
        began = time.perf_counter()
        gathered(own)
        times.append(time.perf_counter() - began)
    return (ranks - 1) * own.numel() * 4 / min(times)


def configuration(args: argparse.Namespace, plan: str) -> RunConfig:
    """Return the config of the case."""
    train = {"batch_size": args.batch_size}
    return build_config({"model": args.model, "train": train, "distributed": {"plan": plan}, "tensorboard": False})


def measured(args: argparse.Namespace, work: Path, shape: Shape, plan: str, ranks: int) -> dict:
    """Return what `ranks` processes measured."""
    mp.spawn(rank_run, (ranks, work, args, shape, plan), nprocs=ranks)
    return json.loads((work / "result.json").read_text())


def loss_difference(one: list[dict], other: list[dict]) -> float:
    """Return the largest difference of a term, relative to its step's whole loss, over all steps."""
    pairs = zip(one, other, strict=True)
    return max(abs(a[name] - b[name]) / sum(map(abs, b.values())) for a, b in pairs for name in b)


def widths(args: argparse.Namespace) -> dict[str, int]:
    """Return the features that the model reads."""
    return {} if args.model in ID_ONLY else FEATURE_DIMS


def probes(args: argparse.Namespace, shape: Shape, threads: int) -> list[Probe]:
    """Return the probes that `mmfast plan` would take of a shape."""
    size, config = Size(*shape, widths(args)), configuration(args, "data")
    share = min(1.0, args.probe / shape.num_nodes)
    return [probe(config, size.part(share * part), threads) for part in (0.5, 1.0)]


def estimated(args: argparse.Namespace, taken: list[Probe], shape: Shape, plan: str, ranks: Ranks) -> Estimate:
    """Return the estimate of a plan, or of one process."""
    rows = MODELS.get(args.model).over_ranks == "rows"
    found = estimates(draw_out(taken, Size(*shape, widths(args))), ranks, rows)
    return next(one for one in found if one.plan in (plan, "one process"))


def compared(args: argparse.Namespace, shape: Shape, plan: str, found: dict, taken: list[Probe]) -> dict:
    """Return what the plan had said, over what was measured."""
    ranks = Ranks(len(found["peaks"]), found["gather_rate"] or 1.0, 1e-4)
    told, peak = estimated(args, taken, shape, plan, ranks), max(max(pair) for pair in found["peaks"])
    return {"peak_ratio": told.peak_bytes / peak, "step_ratio": told.step_s / found["step_s"]}


def cases(args: argparse.Namespace, ranks: int, one: dict) -> None:
    """Measure a number of ranks by every plan, and print a line for each; one process leaves its figures in `one`."""
    shape = Shape(*(n * (ranks if args.weak else 1) for n in shapes[args.shape]))
    threads = max(1, args.threads // ranks)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_data(shape, args.users or shape.num_users, work)
        if widths(args):
            feature_files(shape.num_items, work, {})
        taken = probes(args, shape, threads) if args.probe else []
        for plan in args.plans if ranks > 1 else ["data"]:
            found = measured(args, work, shape, plan, ranks)
            if ranks == 1:
                one |= found
            case = {"bench": "scale", "case": f"{args.model} {args.shape}{' x ranks' * args.weak} {plan}"}
            case |= {"device": "cpu", "ranks": ranks, "threads": threads, "steps": len(found["losses"]), **found}
            case["all_peaks_bytes"] = sum(max(pair) for pair in found["peaks"])
            if one and not args.weak:
                case["loss_difference"] = loss_difference(case["losses"], one["losses"])
                case["same_metrics"] = found["metrics"] == one["metrics"]
            case["ratios"] = {"one process step": one["step_s"] / found["step_s"]} if one else {}
            case["estimate"] = compared(args, shape, plan, found, taken) if taken else {}
            del case["losses"]
            print(json_line(case) if args.json else text_of(case), flush=True)


def simulate(args: argparse.Namespace) -> None:
    """Print the estimates of plan "row" for assumed devices, from Electronics to a billion interactions."""
    taken = probes(args, shapes["elec"], args.threads)
    for factor, count in SIMULATED:
        shape = Shape(*(n * factor for n in shapes["elec"]))
        told = estimated(args, taken, shape, "row", Ranks(count, args.bandwidth, 1e-4, args.speed))
        case = {"bench": "scale", "case": f"simulation {args.model} elec x {factor} row", "simulation": True}
        case |= {"ranks": count, "interactions": shape.num_edges, "speed": args.speed, "bandwidth": args.bandwidth}
        case |= {"train_bytes": told.train_bytes, "compute_s": told.compute_s, "network_s": told.network_s}
        case["epoch_s"] = told.step_s * -(-shape.num_edges // args.batch_size)
        print(json_line(case) if args.json else json.dumps(case), flush=True)


def text_of(case: dict) -> str:
    """Return a case for a reader."""
    peaks = " ".join(f"{max(pair) / 2**30:.2f}" for pair in case["peaks"])
    extra = "".join(f"; {name} {value:.3g}" for name, value in {**case["estimate"], **case["ratios"]}.items())
    if "loss_difference" in case:
        extra += f"; losses differ by {case['loss_difference']:.1e}, metrics the same: {case['same_metrics']}"
    return (
        f"{case['case']}: {case['ranks']} ranks x {case['threads']} threads: start {case['startup_s']:.1f} s, step "
        f"{case['step_s'] * 1e3:.1f} +- {case['step_spread_s'] * 1e3:.1f} ms, epoch {case['epoch_s']:.1f} s, "
        f"evaluation {case['eval_s']:.1f} s, peak GiB {peaks}{extra}"
    )


def main() -> None:
    """Measure, or simulate, by the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS.names(), required=True)
    parser.add_argument("--shape", choices=list(shapes), default="baby")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--plans", choices=PLANS, nargs="+", default=["data", "row"])
    parser.add_argument("--weak", action="store_true", help="data that grow with the ranks")
    parser.add_argument("--steps", type=int, default=50, help="steps measured; the first tenth is not counted")
    parser.add_argument("--users", type=int, help="users evaluated (default: all)")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2, help="of all ranks together")
    parser.add_argument("--probe", type=int, default=0, help="also estimate, from probes up to so many nodes")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--speed", type=float, default=100.0, help="of a simulated rank, over this machine")
    parser.add_argument("--bandwidth", type=float, default=5e10, help="of a simulated rank, bytes/s")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.probe = args.probe or (60_000 if args.simulate else 0)
    if args.simulate:
        simulate(args)
        return
    one: dict = {}
    for ranks in args.ranks:
        cases(args, ranks, one)


if __name__ == "__main__":
    main()
