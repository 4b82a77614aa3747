"""Full-ranking evaluation of validation at a data set's shape, against what a user would run instead, in the same run.

python bench/evaluate.py --shape baby [--data FOLDER] [--json]

Random vectors of width 64 stand for a model: the time of an evaluation does not depend on what they were trained for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _common import emit, median_and_spread, peak_bytes, shapes
from _data import shaped_dataset
from _gemm import gemm_flops, product_type
from _plain import PlainModel, evaluation_seconds

from mmfast.device import keep_freed_memory
from mmfast.evaluate import evaluate
from mmfast.ops import use_backend

WIDTH = 64


class Vectors(torch.nn.Module):
    """A model that is its vectors."""

    def __init__(self, dataset):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.users = torch.randn(dataset.num_users, WIDTH, generator=generator)
        self.items = torch.randn(dataset.num_items, WIDTH, generator=generator)

    def embed(self, hide=()):
        """Return the vectors."""
        return self.users, self.items


def seconds(fn, repeat):
    """Return the times of `repeat` calls, after one that is not counted."""
    fn()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        fn()
        times.append(time.perf_counter() - started)
    return times


def measured(args: argparse.Namespace) -> dict:
    """Return the case: our evaluation and that of the alternatives."""
    with tempfile.TemporaryDirectory() as work:
        dataset = shaped_dataset(args.shape, args.data, Path(work))
        model = Vectors(dataset)
        times = seconds(lambda: evaluate(model, dataset, "valid"), args.repeat)
        peak = peak_bytes(lambda: evaluate(model, dataset, "valid"))
        others = {}
        if not args.no_alternatives:
            with use_backend("reference"):
                others["reference backend"] = min(seconds(lambda: evaluate(model, dataset, "valid"), 1))
            plain = PlainModel("bpr", dataset)
            others["plain eager"] = min(evaluation_seconds(plain, dataset) for _ in range(2))
    median, spread = median_and_spread(times)
    num_users = len(set(dataset.valid.users.tolist()))
    flops = 2 * num_users * dataset.num_items * WIDTH
    return {
        "bench": "evaluate",
        "case": args.shape,
        "pass": "valid",
        "device": "cpu",
        "threads": args.threads,
        "median_s": median,
        "eval_s": median,
        "spread_s": spread,
        "peak_bytes": peak,
        "least_bytes": 0,
        "least_flops": flops,
        "limit_fraction": flops / gemm_flops(dtype=product_type("auto", WIDTH)) / median,
        "ratios": {name: value / median for name, value in others.items()},
    }


def main() -> None:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(shapes), default="baby")
    parser.add_argument("--data", type=Path, help="name or folder of a data set, for its interactions")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-alternatives", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    emit(measured(args), args.json)


if __name__ == "__main__":
    main()
