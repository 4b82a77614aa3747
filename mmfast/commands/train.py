"""Train a model by a YAML file, by key=value arguments that win over it, or by both, into a folder below runs/."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmfast.config import Config, DataConfig, RunConfig, build_config, load_config
from mmfast.errors import MmfastError
from mmfast.settings import read_settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

EXAMPLES = """examples:
  mmfast train configs/demo_freedom.yaml
  mmfast train configs/demo_freedom.yaml train.epochs=5 seed=1 name=quick
  mmfast train model=lightgcn data=baby model.num_layers=3
  mmfast train configs/demo_freedom.yaml --show        print the resolved config and stop
  mmfast train --resume runs/quick                     continue after an interruption
  mmfast train --resume runs/quick train.epochs=50     continue further than planned

Settings are key=value; values are YAML, the order does not matter, and they win over the file. The YAML file holds the
same keys: `train.epochs=5` is `train: {epochs: 5}`. model=NAME is required, model.KEY=VALUE sets its options, which
`mmfast models NAME` lists; framework=NAME or framework=[NAME, NAME] puts training frameworks around it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast train`; its help lists every setting."""
    parser.epilog = f"{EXAMPLES}\nsettings:\n{settings_table(RunConfig)}"
    parser.add_argument("config", nargs="*", metavar="CONFIG.yaml | key=value", help="one file, any number of settings")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument("--show", action="store_true", help="print the resolved config as YAML and stop")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the final metrics")


def run(args: argparse.Namespace) -> int:
    """Train, or show the config, and print the final metrics."""
    config = resolve(args.config, args.resume, show=args.show)
    if args.show:
        print(config.to_yaml(), end="")
        return 0
    from mmfast.commands.show import metric_lines
    from mmfast.ranks import is_first, leave_ranks, losses_told
    from mmfast.trainer import fit

    with losses_told():
        resume = args.resume or begun_before(config)
        finished, first = fit(config, resume=resume, progress=not args.quiet), is_first()
        leave_ranks()
    if not first:
        return 0
    metrics = finished.metrics
    best, epochs = metrics["best_epoch"] + 1, metrics["epochs"]
    print(f"{finished.folder}: best epoch {best} of {epochs} (ended by {metrics['ended']})")
    print(metric_lines({part: metrics[part] for part in ("valid", "test")}))
    return 0


def begun_before(config: RunConfig) -> Path | None:
    """Return the folder of the run that this job had begun before torchrun started it again (--max-restarts), if any.

    Raises MmfastError for a run without a name in a job that may be started again: nothing would find its folder.
    """
    from mmfast.ranks import may_restart, restarted

    if may_restart() and config.name is None:
        raise MmfastError("torchrun --max-restarts needs name=NAME, by which a restart finds the run; or use --resume")
    folder = Path(config.out) / str(config.name)
    return folder if restarted() and (folder / "config.yaml").is_file() else None


def settings_table(kind: type[Config], prefix: str = "", leave_out: Sequence[str] = ("model", "framework")) -> str:
    """Return one line per setting of a config and of its sections: key, type and default, meaning."""
    from mmfast.commands.show import option_lines

    fields = {f"{prefix}{key}": field for key, field in kind.model_fields.items() if key not in leave_out}
    sections = {f"{key}.": field.annotation for key, field in fields.items() if is_section(field)}
    plain = {key: field for key, field in fields.items() if not is_section(field)}
    return "\n\n".join(
        [option_lines(plain), *(settings_table(section, name, ()) for name, section in sections.items())]
    )


def is_section(field: FieldInfo) -> bool:
    """Whether a field holds settings of its own."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, Config)


def resolve(arguments: list[str], resume: str | None, show: bool = False) -> RunConfig:
    """Return the config of the command line, to `show` it or to train by it.

    Raises MmfastError for two files, a file beside --resume, or data that are not there.
    """
    file, overrides = file_and_settings(arguments)
    if resume is None:
        if not arguments:
            raise MmfastError("nothing to train; give a YAML file or key=value arguments, see `mmfast train --help`")
        raw = read_settings(file, overrides)
        return build_config(raw) if show else build_config(raw, check_data)
    if file is not None:
        raise MmfastError(f"--resume uses the config of '{resume}'; leave out '{file}'")
    from mmfast.run import check_run_folder

    return load_config(check_run_folder(resume) / "config.yaml", overrides)


def check_data(data: DataConfig) -> None:
    """Raise MmfastError for a data set that is not there."""
    from mmfast.data.locate import DEMO, locate

    if data.name != DEMO:  # which is made when it is first used
        locate(data.name, data.root)


def file_and_settings(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the YAML file among the arguments, if one is, and the key=value ones. Raises MmfastError for two files."""
    files = [a for a in arguments if "=" not in a or Path(a).is_file()]
    for name in files:
        _check_file(name)
    if len(files) > 1:
        raise MmfastError(f"got {len(files)} config files ({', '.join(files)}); give one file and key=value arguments")
    return files[0] if files else None, [a for a in arguments if a not in files]


def _check_file(name: str) -> None:
    """Raise MmfastError that says how to write what is meant, for an argument that cannot be a config file."""
    if (Path(name) / "config.yaml").is_file():
        raise MmfastError(
            f"'{name}' is a run folder: continue it with --resume {name}, or repeat it with {name}/config.yaml"
        )
    if not Path(name).is_file() and Path(name).suffix not in (".yaml", ".yml"):
        raise MmfastError(
            f"argument '{name}' is neither a YAML file nor key=value (without blanks); "
            "write for example model=lightgcn data=demo"
        )
