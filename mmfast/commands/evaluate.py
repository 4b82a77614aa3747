"""Evaluate the best model of a run by full ranking, with other cut-offs, hidden features or cold items if wished."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLES = """examples:
  mmfast evaluate runs/quick
  mmfast evaluate runs/quick --part valid --top-k 10 20
  mmfast evaluate runs/quick --hide image          how much the images matter
  mmfast evaluate runs/quick --candidates cold     only items without a training row
  mmfast evaluate runs/quick --json --per-user values.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast evaluate`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--part", default="test", help="valid or test (default)")
    parser.add_argument("--top-k", type=int, nargs="+", metavar="K", help="cut-offs (default: the run's)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="metrics (default: the run's)")
    parser.add_argument("--hide", nargs="+", default=[], metavar="MODALITY", help="show the mean row of these features")
    parser.add_argument("--candidates", choices=("all", "cold"), help="items that are ranked (default: the run's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--per-user", metavar="FILE.parquet", help="write every user's values there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the metrics of a run."""
    from mmfast.checkpoint import atomic_write
    from mmfast.commands.show import metric_lines
    from mmfast.config import EvaluateConfig
    from mmfast.errors import MmfastError
    from mmfast.evaluate import evaluate
    from mmfast.run import Run

    finished = Run.load(args.run_folder, device=args.device)
    changes = {"top_k": args.top_k, "metrics": args.metrics, "candidates": args.candidates}
    settings = finished.config.evaluate.model_dump() | {key: value for key, value in changes.items() if value}
    if min(settings["top_k"]) < 1:
        raise MmfastError(f"--top-k: got {min(settings['top_k'])}; give cut-offs of 1 or more")
    config = EvaluateConfig(**settings)
    result = evaluate(finished, None, args.part, config, hide=args.hide)
    if args.per_user:
        ids = finished.dataset.user_ids.gather(result.users)
        atomic_write(Path(args.per_user), result.per_user.with_columns(user=ids).write_parquet)
    if args.json:
        counts = {"users": len(result.users), "left_out": result.left_out}
        print(json.dumps(counts | {"metrics": result.metrics}, indent=1))
        return 0
    left_out = f", {result.left_out} without a cold item left out" if result.left_out else ""
    print(f"{args.run_folder}: {args.part}, {len(result.users)} users{left_out}")
    print(metric_lines({args.part: result.metrics}))
    return 0
