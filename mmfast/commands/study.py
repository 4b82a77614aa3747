"""Run a study: every method on every model with every seed, and one table of means and spreads."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmfast.commands.train import file_and_settings
from mmfast.errors import MmfastError

EXAMPLES = """examples:
  mmfast study configs/studies/scientific_ckd.yaml                      Tables 1 and 2 of CKD, and the curves of Fig. 1
  mmfast study configs/studies/scientific_ckd_ablation.yaml             its Table 3
  mmfast study configs/studies/scientific_ckd.yaml study.seeds=[1] train.epochs=5 --out runs/glance
  mmfast study configs/studies/scientific_ckd.yaml --models MGCN        one of several processes that share the work

Settings go to every run; with `study.` before them, to the study itself. The same command goes on where it was
stopped, and with more seeds trains only those. Processes with different --models can share a folder; the command
without --models then writes the table.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast study`."""
    parser.add_argument("config", nargs="+", metavar="STUDY.yaml | key=value", help="the study, and changes to it")
    parser.add_argument("--out", type=Path, help="folder of the study (default: runs/<name of the file>)")
    parser.add_argument("--models", nargs="+", default=(), metavar="MODEL", help="train only these models' rows")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the table")


def run(args: argparse.Namespace) -> int:
    """Run the study and print its table."""
    from mmfast.study import load_study, run_study, table_text

    path, settings = file_and_settings(args.config)
    if path is None:
        raise MmfastError("study: give the YAML file of a study, for example configs/studies/scientific_ckd.yaml")
    study = load_study(path, settings)
    folder = args.out or Path("runs") / Path(path).stem
    rows = run_study(study, folder, progress=not args.quiet, models=args.models)
    print(table_text(study, rows), end="")
    if not args.models:
        print(f"\n{folder}: table.md, study.json, curves.csv")
    return 0
