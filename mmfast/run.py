"""A run and its folder: what training leaves behind, and how to open it again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmfast.checkpoint import check_fingerprint, load_checkpoint, load_model_state, write_text
from mmfast.config import RunConfig, load_config
from mmfast.device import resolve_device
from mmfast.errors import MmfastError, suggest
from mmfast.seeds import derive_generator

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.models.base import Recommender

BEST = "best.safetensors"
LAST = "last.safetensors"
MAY_CHANGE = {"name", "out", "device", "threads", "tensorboard"}
TRAIN_MAY_CHANGE = {"epochs", "patience", "checkpoint_every", "checkpoint_seconds"}


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
        dataset = dataset if dataset is not None else dataset_of(config)
        model = build_model(config, dataset).to(resolve_device(device))
        load_best(folder, model, config, dataset)
        model.eval()
        return cls(folder, config, dataset, model, metrics)


def load(folder: Path | str, dataset: Dataset | None = None, device: str = "cpu") -> Run:
    """Return the finished run in `folder`; see `Run.load`."""
    return Run.load(folder, dataset, device)


def dataset_of(config: RunConfig) -> Dataset:
    """Return the data set that a run's config names."""
    from mmfast.data.load import load_dataset

    return load_dataset(config.data)


def build_model(config: RunConfig, dataset: Dataset) -> Recommender:
    """Return the untrained backbone of a run; its initial values depend on config.seed alone."""
    from mmfast.registry import MODELS

    return MODELS.get(config.model.name)(config.model, dataset, derive_generator(config.seed, "init"))


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
        raise MmfastError(f"run '{folder}' is not finished; finish it with `mmfast train --resume {folder}`")
    return json.loads(path.read_text(encoding="utf-8"))


def new_run_folder(config: RunConfig) -> Path:
    """Create the folder of a new run and write its config.yaml; a folder that exists is never written into.

    Raises MmfastError when `config.name` is taken.
    """
    out = Path(config.out)
    base = config.name or run_name(config)
    folder = out / base
    for attempt in range(2, 1000):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if config.name is not None:
                raise MmfastError(_taken(folder, config)) from None
            folder = out / f"{base}-{attempt}"
    write_text(folder / "config.yaml", config.to_yaml())
    return folder


def run_name(config: RunConfig) -> str:
    """Return <data>_<model>[_<framework>...]_seed<seed>_<time> for a run without a name."""
    data = Path(config.data.name).name or "data"
    parts = [data, config.model.name, *(framework.name for framework in config.framework)]
    return "_".join([*parts, f"seed{config.seed}", time.strftime("%Y%m%d-%H%M%S")])


def resumed_config(folder: Path | str, config: RunConfig | None) -> tuple[Path, RunConfig]:
    """Return the folder and the config to resume with: the stored one, or `config` if it differs only where it may.

    Raises MmfastError naming the settings that would make it another run.
    """
    folder = check_run_folder(folder)
    stored = load_config(folder / "config.yaml")
    if config is None:
        return folder, stored
    if changed := config_differences(stored, config):
        raise MmfastError(
            f"run '{folder}' was started with other settings: {'; '.join(changed)}. Resume it without these, or start "
            f"a new run; on resuming only {', '.join(sorted(f'train.{k}' for k in TRAIN_MAY_CHANGE))}, device and "
            "threads may change"
        )
    return folder, config


def config_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Return "train.batch_size was 64, now 32" for every setting that decides the result and differs."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    for side in (before, after):
        for key in MAY_CHANGE:
            side.pop(key)
        for key in TRAIN_MAY_CHANGE:
            side["train"].pop(key)
    return list(_differences(before, after, ""))


def _differences(old: Any, new: Any, place: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)]
    return [] if old == new else [f"{place} was {old!r}, now {new!r}"]


def _taken(folder: Path, config: RunConfig) -> str:
    if (folder / "config.yaml").is_file() and load_config(folder / "config.yaml") == config:
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
