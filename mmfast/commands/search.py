"""Try settings: train every combination, choose by the monitored validation metric, look at test once at the end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmfast.commands.train import check_data, file_and_settings
from mmfast.config import build_config
from mmfast.errors import MmfastError
from mmfast.settings import read_settings

EXAMPLES = """examples:
  mmfast search configs/scientific_bpr.yaml                       the grid in the file's `search` section
  mmfast search configs/scientific_bpr.yaml 'model.reg_weight=[1.0,0.1,0.01]' train.epochs=50
  mmfast search model=bpr data=demo 'model.reg_weight={low: 1.0e-4, high: 10.0, log: true}' --trials 20
  mmfast search configs/scientific_bpr.yaml --workers 2           two processes, half of the threads each

A list is tried value by value, all lists in all combinations; a range {low, high, log} is searched by Optuna's
TPE. Lists on the command line replace the file's `search` section. The same command goes on where it was stopped.
"""
LISTS = ("evaluate.top_k", "evaluate.metrics", "train.lr_decay", "data.features", "imports", "framework")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast search`."""
    parser.add_argument(
        "config", nargs="+", metavar="CONFIG.yaml | key=value | key=[values]", help="as for mmfast train"
    )
    parser.add_argument("--trials", type=int, help="trials in all; by default the whole grid")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side (default 1)")
    parser.add_argument("--out", type=Path, help="folder of the search (default: below the config's `out`)")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")


def run(args: argparse.Namespace) -> int:
    """Search, and print the trials and the metrics of the best."""
    raw, axes = split_axes(read_settings(*file_and_settings(args.config)))
    config = build_config(raw, check_data)
    data = Path(config.data.name).name
    folder = args.out or Path(config.out) / f"search-{data}-{config.model.name}"
    from mmfast.commands.show import metric_lines, table
    from mmfast.search import search

    found = search(raw, axes, folder, trials=args.trials, workers=args.workers, progress=not args.quiet)
    shown = [[str(row["value"] and round(row["value"], 5)), settings_text(row)] for row in found.trials]
    print(table([[f"valid {config.train.monitor}", "settings"], *shown]))
    print(f"best: {folder / 'best.yaml'}")
    print(metric_lines({part: found.metrics[part] for part in ("valid", "test")}))
    return 0


def settings_text(row: dict[str, Any]) -> str:
    """Return the settings of a trial on one line, and why it failed if it did."""
    text = " ".join(f"{key}={value}" for key, value in row["settings"].items())
    return f"{text}   failed: {row['reason']}" if "reason" in row else text


def split_axes(raw: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (settings without axes, axes) of a nested config; axes in sections come before the `search` section."""
    axes: dict[str, Any] = {}
    rest = _without_axes(raw, "", axes)
    section = rest.pop("search", None) or {}
    if not axes and not section:
        raise MmfastError(
            "search: nothing to try; give lists, for example 'model.reg_weight=[0.1,0.01]', or a `search` section in "
            "the file"
        )
    return rest, axes or section


def _without_axes(section: dict[str, Any], place: str, axes: dict[str, Any]) -> dict[str, Any]:
    rest = {}
    for key, value in section.items():
        path = f"{place}{key}"
        axis = isinstance(value, list) or (isinstance(value, dict) and {"low", "high"} <= set(value))
        if axis and path not in LISTS:
            axes[path] = value
        elif isinstance(value, dict) and path != "search":
            rest[key] = _without_axes(value, f"{path}.", axes)
        else:
            rest[key] = value
    return rest
