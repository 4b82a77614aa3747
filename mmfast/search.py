"""Search for settings: a grid, then Optuna's proposals; chosen on validation, with one look at test at the end."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmfast.config import build_config
from mmfast.errors import MmfastError
from mmfast.verbs import VerbModule

if TYPE_CHECKING:
    import optuna

JOURNAL, RESULT, PLAN = "search.log", "search.json", "search.yaml"
Axes = Mapping[str, "list[Any] | Mapping[str, Any]"]
sys.modules[__name__].__class__ = VerbModule


@dataclass(frozen=True)
class Found:
    """What a search found."""

    folder: Path
    best: dict[str, Any]
    """The settings that won."""
    valid: float
    """Their monitored value on validation."""
    metrics: dict[str, Any]
    """metrics.json of the winning run, test included."""
    trials: list[dict[str, Any]]
    """All trials, best first: settings, value (None when it failed), run folder, reason of a failure."""


def search(
    config: Mapping[str, Any],
    axes: Axes,
    folder: Path | str,
    *,
    trials: int | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Found:
    """Train every combination of `axes` around `config` and return the best on validation, tested once.

    config: a nested mapping as a YAML file holds it. axes: "model.reg_weight" -> list of values (a grid), or
    {low, high[, log]} for a range that proposals are drawn from. trials: how many in all; None is the grid; more than
    the grid go on with proposals, fewer take that many combinations of it in order. workers: processes side by side.
    The same folder goes on where it was left. Raises MmfastError for axes that do not fit, and when no trial succeeds.

    >>> found = search({"model": "bpr", "data": "demo"}, {"model.reg_weight": [0.1, 1.0]}, "runs/s")  # doctest: +SKIP
    """
    folder = Path(folder)
    plan = {"config": dict(config), "axes": {key: _axis(key, axis) for key, axis in axes.items()}}
    grid = _grid(plan["axes"])
    total = trials if trials is not None else len(grid)
    _check(plan, grid, total)
    folder.mkdir(parents=True, exist_ok=True)
    _same_plan(folder / PLAN, plan)
    study = _study(folder)
    _enqueue(study, grid[:total])
    if workers == 1:
        _work(folder, total, progress)
    else:
        _in_processes(folder, total, workers)
    return _finish(folder, plan, progress)


def _axis(key: str, axis: Any) -> list[Any] | dict[str, Any]:
    """Return an axis as a list of values or a range. Raises MmfastError for anything else."""
    if isinstance(axis, list) and axis:
        return axis
    if isinstance(axis, Mapping) and {"low", "high"} <= set(axis) <= {"low", "high", "log"}:
        low, high = axis["low"], axis["high"]
        if low < high and (low > 0 or not axis.get("log")):
            return dict(axis)
    raise MmfastError(
        f"search: {key}={axis}; wanted a list of values, for example {key}=[0.1,0.01], or a range "
        "{low: 1.0e-5, high: 0.1, log: true} with low < high (and low > 0 where log)"
    )


def _grid(axes: Axes) -> list[dict[str, Any]]:
    lists = {key: axis for key, axis in axes.items() if isinstance(axis, list)}
    if len(lists) < len(axes):
        return []
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _check(plan: Mapping[str, Any], grid: list[dict[str, Any]], total: int) -> None:
    """Refuse an empty search and settings that no config takes, before anything is trained."""
    if not plan["axes"]:
        raise MmfastError("search: no axes; give lists of values, for example model.reg_weight=[0.1,0.01]")
    if total < 1:
        raise MmfastError(f"search: {total} trials; ranges need --trials N, the number of trials in all")
    first = {key: axis[0] if isinstance(axis, list) else axis["low"] for key, axis in plan["axes"].items()}
    for settings in grid or [first]:
        build_config(with_settings(plan["config"], settings))


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested config with dotted settings put in."""
    raw = json.loads(json.dumps(config))
    for key, value in settings.items():
        *sections, last = key.split(".")
        place = raw
        for section in sections:
            inner = place.get(section, {})
            place[section] = place = {"name": inner} if isinstance(inner, str) else inner
        place[last] = value
    return raw


def _same_plan(path: Path, plan: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(plan, sort_keys=True)
    if path.is_file() and path.read_text() != text:
        raise MmfastError(f"search: '{path}' is of other settings or axes; choose another folder (--out) or delete it")
    path.write_text(text)


def _study(folder: Path) -> optuna.Study:
    try:
        import optuna
    except ImportError:
        from mmfast.doctor import install_line

        raise MmfastError(f"search needs optuna; {install_line('study')}") from None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="search",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        load_if_exists=True,
    )


def _enqueue(study: optuna.Study, grid: list[dict[str, Any]]) -> None:
    """Queue the combinations not queued yet, and again those whose process was killed."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.system_attrs.get("fixed_params") or trial.params)
    known = {json.dumps(trial.system_attrs.get("fixed_params"), sort_keys=True) for trial in study.get_trials()}
    for settings in grid:
        fixed = {key: json.dumps(value) for key, value in settings.items()}
        if json.dumps(fixed, sort_keys=True) not in known:
            study.enqueue_trial(fixed)


def _suggest(trial: optuna.Trial, axes: Axes) -> dict[str, Any]:
    settings = {}
    for key, axis in axes.items():
        if isinstance(axis, list):
            settings[key] = json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in axis]))
        elif isinstance(axis["low"], int) and isinstance(axis["high"], int):
            settings[key] = trial.suggest_int(key, axis["low"], axis["high"], log=bool(axis.get("log")))
        else:
            settings[key] = trial.suggest_float(key, axis["low"], axis["high"], log=bool(axis.get("log")))
    return settings


def _work(folder: Path, total: int, progress: bool) -> None:
    """Run trials until `total` have a result."""
    from optuna.trial import TrialState

    study, plan = _study(folder), yaml.safe_load((folder / PLAN).read_text())
    while True:
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        begun = sum(state in (TrialState.COMPLETE, TrialState.RUNNING) for state in states)
        failed = sum("reason" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        if begun + failed >= total:
            return
        trial = study.ask()
        settings = _suggest(trial, plan["axes"])
        try:
            study.tell(trial, _value(trial, folder, plan["config"], settings, progress))
        except MmfastError as error:  # one bad combination does not end the search; the table tells why
            trial.set_user_attr("reason", str(error))
            study.tell(trial, state=TrialState.FAIL)


def _value(
    trial: optuna.Trial, folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any], progress: bool
) -> float:
    """Train one combination, or go on with it, and return its monitored value; the test part is not looked at."""
    from mmfast.trainer import completed

    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    trial.set_user_attr("run", name)
    built = build_config(with_settings(config, settings) | {"out": str(folder), "name": name})
    return completed(built, progress, test=False)["valid"][built.train.monitor]


def _in_processes(folder: Path, total: int, workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(folder, total, False)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if broken := [process.exitcode for process in processes if process.exitcode]:
        raise MmfastError(
            f"search: {len(broken)} of {workers} workers ended with an error (above); run the same command again to "
            "go on, or with --workers 1"
        )


def _finish(folder: Path, plan: Mapping[str, Any], progress: bool) -> Found:
    """Look at test once, with the run that is best on validation, and write the table of all trials."""
    from mmfast.checkpoint import write_text
    from mmfast.trainer import fit

    rows = []
    for trial in _study(folder).get_trials(deepcopy=False):
        if trial.value is not None or "reason" in trial.user_attrs:
            settings = {
                key: json.loads(value) if isinstance(plan["axes"][key], list) else value
                for key, value in trial.params.items()
            }
            row = {"settings": settings, "value": trial.value, "run": trial.user_attrs.get("run")}
            rows.append(row | ({"reason": trial.user_attrs["reason"]} if trial.value is None else {}))
    rows.sort(key=lambda row: (row["value"] is None, -(row["value"] or 0.0)))
    if not rows or rows[0]["value"] is None:
        reasons = "; ".join(sorted({row["reason"] for row in rows}))
        raise MmfastError(f"search: no trial gave a result ({reasons}); widen the axes or mend the settings")
    best = rows[0]
    metrics = fit(None, resume=folder / best["run"], progress=progress).metrics
    write_text(folder / "best.yaml", yaml.safe_dump(with_settings(plan["config"], best["settings"]), sort_keys=False))
    write_text(folder / RESULT, json.dumps({"best": best, "test": metrics["test"], "trials": rows}, indent=1) + "\n")
    return Found(folder, best["settings"], best["value"], metrics, rows)
