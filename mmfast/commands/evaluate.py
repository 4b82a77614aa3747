"""Evaluate the best model of a run on valid and test by full ranking; by default, what the run itself reports."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmfast.config import EvaluateConfig
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    import polars as pl

    from mmfast.evaluate import Evaluation
    from mmfast.run import Run

EXAMPLES = """examples:
  mmfast evaluate runs/quick                       the metrics that training reported, valid and test
  mmfast evaluate runs/quick --part valid --top-k 10 20
  mmfast evaluate runs/quick --hide image          how much the images matter
  mmfast evaluate runs/quick --modalities          what each modality ranks like alone
  mmfast evaluate runs/quick --candidates cold     only items without a training row
  mmfast evaluate runs/quick --json --per-user values.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast evaluate`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--part", choices=("valid", "test"), help="one part alone (default: both)")
    top_k = "cut-offs (default: the run's); one above the number of ranked items is of the whole ranking"
    parser.add_argument("--top-k", type=int, nargs="+", metavar="K", help=top_k)
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics (default: the run's)")
    parser.add_argument("--hide", nargs="+", default=[], metavar="MODALITY", help="show the mean row of these features")
    each = "a column for each modality, the others hidden, beside all of them"
    parser.add_argument("--modalities", action="store_true", help=each)
    parser.add_argument("--candidates", choices=("all", "cold"), help="items that are ranked (default: the run's)")
    ideal = "the ideal list of NDCG: of all held-out items, or of the retrieved hits (default: the run's)"
    parser.add_argument("--ndcg", choices=("standard", "retrieved"), help=ideal)
    parser.add_argument("--round-digits", type=int, metavar="N", help="round every value, as MMRec to 4")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--per-user", metavar="FILE.parquet", help="write every user's values there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the metrics of a run."""
    from mmfast.evaluate import evaluate, evaluation_notes
    from mmfast.run import Run

    finished = Run.load(args.run_folder, device=args.device)
    config = settings(finished.config.evaluate, args)
    parts = [args.part] if args.part else ["valid", "test"]
    if args.modalities:
        return show_modalities(finished, parts, config, args)
    results = {part: evaluate(finished, None, part, config, hide=args.hide) for part in parts}
    if args.per_user:
        write_per_user(results, finished.dataset.user_ids, args.per_user)
    if args.json:
        report = {
            part: {"users": len(result.users), "left_out": result.left_out, "metrics": result.metrics}
            for part, result in results.items()
        }
        print(json.dumps(report, indent=1))
    else:
        print(f"{args.run_folder}, best epoch {finished.metrics['best_epoch'] + 1}")
        show(results)
    for note in evaluation_notes(finished.dataset, config):
        print(note, file=sys.stderr)
    return 0


def show_modalities(finished: Run, parts: list[str], config: EvaluateConfig, args: argparse.Namespace) -> int:
    """Print for each part the metrics of every modality alone beside those of all."""
    from mmfast.commands.show import metric_lines
    from mmfast.evaluate import evaluate_modalities

    if args.hide or args.per_user:
        raise MmfastError("evaluate: --modalities hides each in turn; leave --hide and --per-user out")
    results = {
        part: {name: result.metrics for name, result in evaluate_modalities(finished, part, config).items()}
        for part in parts
    }
    if args.json:
        print(json.dumps(results, indent=1))
        return 0
    for part, metrics in results.items():
        print(f"{part}, every modality with the others hidden")
        print(metric_lines(metrics))
    return 0


def show(results: Mapping[str, Evaluation]) -> None:
    """Print how many users each part has, and a table of the metrics."""
    from mmfast.commands.show import metric_lines

    for part, result in results.items():
        left_out = f", {result.left_out} without a cold item left out" if result.left_out else ""
        print(f"{part}: {len(result.users)} users{left_out}")
    print(metric_lines({part: result.metrics for part, result in results.items()}))


def settings(stored: EvaluateConfig, args: argparse.Namespace) -> EvaluateConfig:
    """Return the run's settings with what the command line changes. Raises MmfastError for too small numbers."""
    names = ("top_k", "metrics", "candidates", "ndcg", "round_digits")
    changes = {name: value for name in names if (value := getattr(args, name)) is not None}
    if min(changes.get("top_k", [1])) < 1:
        raise MmfastError(f"--top-k: got {min(changes['top_k'])}; give cut-offs of 1 or more")
    if changes.get("round_digits", 0) < 0:
        raise MmfastError(f"--round-digits: got {changes['round_digits']}; give 0 digits or more")
    return EvaluateConfig(**stored.model_dump() | changes)


def write_per_user(results: Mapping[str, Evaluation], user_ids: pl.Series, path: str) -> None:
    """Write one row per part and user, with original ids and every metric."""
    import polars as pl

    from mmfast.checkpoint import atomic_write

    tables = [
        result.per_user.select(
            pl.lit(part).alias("part"), user_ids.gather(result.users).alias("user"), pl.exclude("user")
        )
        for part, result in results.items()
    ]
    atomic_write(Path(path), pl.concat(tables).write_parquet)
