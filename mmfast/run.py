"""A run and its folder: what training leaves behind, and how to open it again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmfast.checkpoint import check_fingerprint, disk_errors, load_checkpoint, load_model_state, write_text
from mmfast.config import RunConfig, build_config, load_config
from mmfast.device import resolve_device
from mmfast.errors import MmfastError, suggest
from mmfast.seeds import derive_generator

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.frameworks.base import Framework
    from mmfast.models.base import Recommender

BEST = "best.safetensors"
LAST = "last.safetensors"
MAY_CHANGE = {"name", "out", "device", "threads", "check_memory", "tensorboard", "distributed"}
TRAIN_MAY_CHANGE = {"epochs", "patience", "checkpoint_every", "checkpoint_seconds"}
STARTED = {"config.yaml", "environment.json", "log.jsonl", "tb"}  # what a run writes before its first checkpoint
FOLDER_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


@dataclass
class Run:
    """A finished run: the model of the best validation epoch, and where everything lies."""

    folder: Path
    config: RunConfig
    dataset: Dataset
    model: Recommender
    metrics: dict[str, Any]
    """"valid" and "test" (metric -> value), "best_epoch" (from 0), "epochs" (trained), "ended" (why)."""

    @classmethod
    def load(cls, folder: Path | str, dataset: Dataset | None = None, device: str = "cpu") -> Run:
        """Return the run in `folder` with its best model; the data set is loaded by the run's config unless given.

        Raises MmfastError when the folder is no run, the run is not finished, or data and checkpoint do not match.
        """
        folder = check_run_folder(folder)
        config = load_config(folder / "config.yaml")
        metrics = read_metrics(folder)
        placed = _without_lost_root(config)
        dataset = dataset if dataset is not None else dataset_of(placed)
        model = build_framework(placed, dataset, folder).model.to(resolve_device(device))
        if load_best(folder / metrics.get("from", ""), model, config, dataset)["epoch"] != metrics["best_epoch"]:
            raise _unfinished(folder)
        model.eval()
        return cls(folder, config, dataset, model, metrics)


def load(folder: Path | str, dataset: Dataset | None = None, device: str = "cpu") -> Run:
    """Return the finished run in `folder`; see `Run.load`."""
    return Run.load(folder, dataset, device)


def dataset_of(config: RunConfig, progress: bool = True) -> Dataset:
    """Return the data set that a run's config names; with `progress` the stages of preparing it are told on stderr."""
    from mmfast.data.load import load_dataset

    return load_dataset(config.data, stage=lambda text: print(text, file=sys.stderr) if progress else None)


def build_model(config: RunConfig, dataset: Dataset, folder: Path | None = None) -> Recommender:
    """Return the untrained backbone of a run, in `folder`, as its frameworks build it, from the seed alone."""
    from mmfast.registry import FRAMEWORKS, MODELS

    def build(data: Dataset) -> Recommender:
        return MODELS.get(config.model.name)(config.model, data, derive_generator(config.seed, "init"))

    for section in config.framework:
        build = partial(FRAMEWORKS.get(section.name).backbone, section, config, build=build, folder=folder)
    return build(dataset)


def build_framework(config: RunConfig, dataset: Dataset, folder: Path | None = None) -> Framework:
    """Return the model inside its frameworks, outermost last in config.framework; plain training without one."""
    from mmfast.frameworks.base import Framework
    from mmfast.registry import FRAMEWORKS

    framework = Framework(build_model(config, dataset, folder))
    for section in config.framework:
        framework = FRAMEWORKS.get(section.name)(framework, section)
    framework.bfloat16 = config.train.precision == "bfloat16"
    return framework


def load_best(folder: Path, model: Recommender, config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Copy the best checkpoint of `folder` into `model` and return the checkpoint's JSON part."""
    checkpoint = load_checkpoint(folder / BEST)
    check_fingerprint(checkpoint, dataset.name, dataset.fingerprint)
    load_model_state(model, checkpoint, config.model.name)
    return checkpoint.meta


def check_run_folder(folder: Path | str) -> Path:
    """Return the path of a run folder. Raises MmfastError, with a near name, when it is none."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        near = suggest(folder.name, [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else [])
        raise MmfastError(f"'{folder}' is not a run folder (it has no config.yaml).{near} Runs lie below runs/")
    return folder


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return metrics.json of a run. Raises MmfastError when the run is not finished."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise _unfinished(folder)
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("best_epoch", "valid") if key not in metrics]
    except (ValueError, TypeError) as error:
        missing = [str(error)]
    if missing:
        raise MmfastError(
            f"'{path}' is damaged ({', '.join(missing)}); remove it and `mmfast train --resume {folder}` writes it anew"
        )
    return metrics


def _unfinished(folder: Path) -> MmfastError:
    return MmfastError(f"run '{folder}' is not finished; finish it with `mmfast train --resume {folder}`")


def _without_lost_root(config: RunConfig) -> RunConfig:
    """Let a data root that is gone (moved, or another machine) give way to MMFAST_DATA."""
    root = config.data.root
    return config if root is None or Path(root).expanduser().is_dir() else _with_data(config, root=None)


def with_data_place(config: RunConfig) -> RunConfig:
    """Return the config with the absolute place of its data, so that the run opens from any folder and environment."""
    from mmfast.data.locate import DEMO, locate

    name, root = config.data.name, config.data.root
    path = Path(name).expanduser()
    if name == DEMO:
        return config
    if path.is_absolute() or len(path.parts) > 1 or name in (".", ".."):
        return _with_data(config, name=str(path.resolve()))
    base = Path(root or os.environ.get("MMFAST_DATA") or "data").expanduser().absolute()
    # Data that the caller brings along need not lie anywhere.
    with contextlib.suppress(MmfastError):
        base = locate(name, root).folder.absolute().parent
    return _with_data(config, root=str(base))


def _with_data(config: RunConfig, **changes: Any) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def new_config(config: RunConfig | Mapping[str, Any] | None) -> RunConfig:
    """Return a RunConfig or nested mapping as a config with its data placed. Raises MmfastError for anything else."""
    if isinstance(config, Mapping):
        config = build_config(config)
    if not isinstance(config, RunConfig):
        raise MmfastError(
            f"fit: config: got {type(config).__name__}; give load_config('file.yaml', ['key=value', ...]), "
            "a mapping such as {'model': 'lightgcn', 'data': 'demo'}, or resume=RUN"
        )
    return with_data_place(config)


def new_run_folder(config: RunConfig) -> Path:
    """Create the folder of a new run with its config.yaml; a folder that holds something is never written into.

    Raises MmfastError when `config.name` is taken, and when the folder cannot be written.
    """
    out = Path(config.out)
    base = config.name or run_name(config)
    # It appears whole, by a rename: one without a config.yaml would block its name and could not be resumed.
    work = out / f".{base}.{uuid.uuid4().hex[:8]}.part"
    try:
        with disk_errors(out / base):
            work.mkdir(parents=True)
        write_text(work / "config.yaml", config.to_yaml())
        for attempt in range(1, 1000):
            folder = out / (base if attempt == 1 else f"{base}-{attempt}")
            with disk_errors(folder):
                if _renamed(work, folder):
                    return folder
            if config.name is not None:
                break
        raise MmfastError(_taken(folder, config))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def drop_if_only_started(folder: Path) -> bool:
    """Remove the folder of a run without a checkpoint or an artefact, as it cannot be continued; say if it is gone."""
    if any(path.name not in STARTED for path in folder.iterdir()):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _renamed(work: Path, folder: Path) -> bool:
    """Rename a folder; False when the new name is taken. An empty folder of that name is replaced."""
    try:
        work.rename(folder)
    except OSError as error:
        if error.errno not in FOLDER_TAKEN:
            raise
        return False
    return True


def run_name(config: RunConfig) -> str:
    """Return <data>_<model>[_<framework>...]_seed<seed>_<time> for a run without a name."""
    data = Path(config.data.name).name or "data"
    parts = [data, config.model.name, *(framework.name for framework in config.framework)]
    return "_".join([*parts, f"seed{config.seed}", time.strftime("%Y%m%d-%H%M%S")])


def resumed_config(folder: Path | str, config: RunConfig | Mapping[str, Any] | None) -> tuple[Path, RunConfig]:
    """Return the folder and the config to resume with: the stored one, or `config` if it differs only where it may.

    The run's name and place stay those stored. Raises MmfastError naming the settings that would make it another run.
    """
    folder = check_run_folder(folder)
    stored = with_data_place(_without_lost_root(load_config(folder / "config.yaml")))
    if config is None:
        return folder, stored
    config = with_data_place(_without_lost_root(new_config(config)))
    if changed := config_differences(stored, config):
        raise MmfastError(
            f"run '{folder}' was started with other settings: {'; '.join(changed)}. Resume it without these, or start "
            f"a new run; on resuming only {', '.join(sorted(f'train.{k}' for k in TRAIN_MAY_CHANGE))}, device and "
            "threads may change"
        )
    return folder, config.model_copy(update={"name": stored.name, "out": stored.out})


def store_config(folder: Path, config: RunConfig) -> None:
    """Write the config that a run goes on with, unless it is the one in the folder: the next resume needs it."""
    path, text = folder / "config.yaml", config.to_yaml()
    if path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def drop_results(folder: Path) -> None:
    """Remove metrics.json and per_user.parquet: the checkpoints have gone beyond them."""
    for name in ("metrics.json", "per_user.parquet"):
        with disk_errors(folder / name):
            (folder / name).unlink(missing_ok=True)


def config_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Return "train.batch_size was 64, now 32" for every setting that decides the result and differs."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    for side in (before, after):
        for key in MAY_CHANGE:
            side.pop(key)
        for key in TRAIN_MAY_CHANGE:
            side["train"].pop(key)
        side["data"].pop("root")  # the checkpoint's fingerprint tells whether the data are the same
    return list(_differences(before, after, ""))


def _differences(old: Any, new: Any, place: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)]
    return [] if old == new else [f"{place} was {old!r}, now {new!r}"]


def _taken(folder: Path, config: RunConfig) -> str:
    if (folder / "config.yaml").is_file():
        if load_config(folder / "config.yaml") != config:
            return f"run '{folder}' exists with other settings; choose another name (name=...), or remove that folder"
        if (folder / "metrics.json").is_file():
            return (
                f"run '{folder}' exists and is finished with this same config: see `mmfast evaluate {folder}`, "
                "or choose another name"
            )
        return (
            f"run '{folder}' exists with this same config and is not finished: continue it with "
            f"`mmfast train --resume {folder}`, or choose another name"
        )
    return f"folder '{folder}' exists already and belongs to something else; choose another name (name=...)"


def write_environment(folder: Path, now: dict[str, Any]) -> None:
    """Write environment.json: where the run began and, under "resumed", where it was continued elsewhere."""
    path = folder / "environment.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else now
    except ValueError:
        raise MmfastError(f"'{path}' is damaged (not JSON); remove it and resume again") from None
    elsewhere = kept.pop("resumed", [])
    if now not in (kept, *elsewhere):
        elsewhere.append(now)
    write_text(path, json.dumps({**kept, **({"resumed": elsewhere} if elsewhere else {})}, indent=1) + "\n")


def environment(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to judge the run's numbers: versions, device, threads, backend per op."""
    from mmfast.doctor import op_backends, versions

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "versions": versions(),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "ops": {op: backends[device.type] for op, backends in op_backends().items()},
    }
