"""Test metrics of backbones over seeds, with the time of an epoch and the memory of a run: the table of docs/models.md.

python bench/quality.py --data scientific                 every model that has configs/scientific_<model>.yaml
python bench/quality.py --data scientific --models bpr mgcn --seeds 1 2 3

Results go to bench/results/quality-<data>.json, each with its command and date; runs that are there already are not
repeated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
from pathlib import Path

from _origin import origin

from mmfast.config import load_config
from mmfast.errors import MmfastError
from mmfast.registry import MODELS
from mmfast.settings import read_settings

ROOT = Path(__file__).parents[1]
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def one_run(arguments: tuple[str, str, int, int]) -> dict:
    """Train one model with one seed and return its test metrics, epochs, seconds and peak memory."""
    data, model, seed, threads = arguments
    from mmfast.trainer import fit

    path = ROOT / "configs" / f"{data}_{model}.yaml"
    with tempfile.TemporaryDirectory() as out:
        settings = [f"seed={seed}", f"out={out}", "tensorboard=false", f"threads={threads}", "device=cpu"]
        if not path.is_file():
            settings += [f"model={model}", f"data={data}"]
        run = fit(load_config(read_settings(path if path.is_file() else None, settings)), progress=False)
        log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "epochs": run.metrics["epochs"],
        "best_epoch": run.metrics["best_epoch"],
        "valid": {name: run.metrics["valid"][name] for name in METRICS},
        "test": {name: run.metrics["test"][name] for name in METRICS},
        "epoch_s": statistics.median(row["seconds"] for row in log),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def table(results: dict[str, list[dict]]) -> str:
    """Return the results as a Markdown table, the best test recall@20 first."""
    heads = ["model", "seeds", *METRICS, "epochs", "epoch s", "peak MiB"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for model, runs in sorted(
        results.items(), key=lambda item: -statistics.mean(r["test"]["recall@20"] for r in item[1])
    ):
        cells = []
        for name in METRICS:
            values = [run["test"][name] for run in runs]
            cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        epochs = f"{min(run['epochs'] for run in runs)} to {max(run['epochs'] for run in runs)}"
        seconds = statistics.median(run["epoch_s"] for run in runs)
        peak = max(run["peak_bytes"] for run in runs) / 2**20
        lines.append(f"| {model} | {len(runs)} | {' | '.join(cells)} | {epochs} | {seconds:.3f} | {peak:.0f} |")
    return "\n".join(lines)


def models_of(data: str) -> list[str]:
    """Return the models that have a config for the data set."""
    names = {path.stem.removeprefix(f"{data}_") for path in (ROOT / "configs").glob(f"{data}_*.yaml")}
    return sorted(names & set(MODELS.names()))  # without those of frameworks


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scientific")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=2, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    args = parser.parse_args()
    path = ROOT / "bench" / "results" / f"quality-{args.data}.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    models = args.models or models_of(args.data)
    if not models:
        raise MmfastError(f"no configs/{args.data}_*.yaml; name the models with --models")
    known = {(model, run["seed"]) for model, runs in results.items() for run in runs}
    jobs = [(args.data, m, s, args.threads) for m in models for s in args.seeds if (m, s) not in known]
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.workers, maxtasksperchild=1) as pool:
        for (_, model, _, _), result in zip(jobs, pool.imap(one_run, jobs), strict=True):
            results.setdefault(model, []).append(result | origin())
            path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            print(f"{model} seed {result['seed']}: test recall@20 {result['test']['recall@20']:.4f}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
