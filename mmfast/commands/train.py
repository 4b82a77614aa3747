"""Train a model by a YAML file, by key=value arguments that win over it, or by both, into a folder below runs/."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmfast.config import RunConfig, load_config
from mmfast.errors import MmfastError

EXAMPLES = """examples:
  mmfast train configs/demo_freedom.yaml
  mmfast train configs/demo_freedom.yaml train.epochs=5 seed=1 name=quick
  mmfast train model=lightgcn data=baby model.num_layers=3
  mmfast train configs/demo_freedom.yaml --show        print the resolved config and stop
  mmfast train --resume runs/quick                     continue after an interruption
  mmfast train --resume runs/quick train.epochs=50     continue further than planned

`mmfast models NAME` lists the options of a model.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast train`."""
    parser.add_argument("config", nargs="*", metavar="CONFIG.yaml | key=value", help="one file, any number of settings")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument("--show", action="store_true", help="print the resolved config as YAML and stop")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the final metrics")


def run(args: argparse.Namespace) -> int:
    """Train, or show the config, and print the final metrics."""
    config = resolve(args.config, args.resume)
    if args.show:
        print(config.to_yaml(), end="")
        return 0
    from mmfast.commands.show import metric_lines
    from mmfast.trainer import fit

    finished = fit(config, resume=args.resume, progress=not args.quiet)
    metrics = finished.metrics
    best, epochs = metrics["best_epoch"] + 1, metrics["epochs"]
    print(f"{finished.folder}: best epoch {best} of {epochs} (ended by {metrics['ended']})")
    print(metric_lines({part: metrics[part] for part in ("valid", "test")}))
    return 0


def resolve(arguments: list[str], resume: str | None) -> RunConfig:
    """Return the config of the command line. Raises MmfastError for two files, or a file beside --resume."""
    files = [a for a in arguments if "=" not in a or Path(a).is_file()]
    overrides = [a for a in arguments if a not in files]
    if len(files) > 1:
        raise MmfastError(f"got {len(files)} config files ({', '.join(files)}); give one file and key=value arguments")
    if resume is None:
        if not arguments:
            raise MmfastError("nothing to train; give a YAML file or key=value arguments, see `mmfast train --help`")
        return load_config(files[0] if files else None, overrides)
    if files:
        raise MmfastError(f"--resume uses the config of '{resume}'; leave out '{files[0]}'")
    from mmfast.run import check_run_folder

    return load_config(check_run_folder(resume) / "config.yaml", overrides)
