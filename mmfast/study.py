"""A study: every method on every model with every seed, one table of means and spreads; resumable run by run."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from mmfast.checkpoint import write_text
from mmfast.config import Config, RunConfig, build_config, load_section
from mmfast.errors import MmfastError, suggest
from mmfast.search import with_settings
from mmfast.settings import read_settings

DIGITS = {"parameters": 0, "epoch s": 2, "peak MiB": 0}
TABLE, RESULTS, CURVES, PLAN, BY_MODALITY = "table.md", "study.json", "curves.csv", "study.yaml", "modalities.json"


class StudyConfig(Config):
    """What a study's YAML file holds. The texts {folder}, {model} and {seed} in settings are filled in for each run."""

    title: str = Field("Study", min_length=1)
    """Heading of the table."""
    base: dict[str, Any] = Field({})
    """Settings of every run, as in a run's YAML file."""
    models: dict[str, dict[str, Any]] = Field(min_length=1)
    """Name -> settings of a model, over those of base."""
    methods: dict[str, dict[str, Any]] = Field({"plain": {}})
    """Name -> settings of a method, over those of the model; run in this order, so that teachers come first."""
    tune: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = Field({})
    """Method -> axes, such as {framework.distillation_weight: [0.01, 0.1]}: every model tries each combination with the
    first seed, and its row is of the one best on validation."""
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    """Seeds of every row."""
    metrics: tuple[str, ...] = Field(("recall@20", "ndcg@20", "precision@20"), min_length=1)
    """Test metrics, the columns."""
    costs: bool = False
    """Add columns of what training takes: trained parameters, seconds of an epoch, and the most memory of one."""
    modalities: bool = False
    """Add a column of the first metric for each modality, the others hidden at evaluation."""

    @model_validator(mode="after")
    def _tuned_methods_are_methods(self) -> StudyConfig:
        for method in self.tune:
            if method not in self.methods:
                raise ValueError(f"tune: there is no method '{method}'.{suggest(method, self.methods)}")
        return self


@dataclass(frozen=True)
class Row:
    """One line of the table: the runs of a method on a model."""

    model: str
    method: str
    values: dict[str, list[float]]
    """Column -> one value a seed, where there is one."""
    failed: str = ""
    tuned: dict[str, Any] = field(default_factory=dict)
    """Setting -> the value chosen on validation."""


def load_study(path: str | Path, overrides: list[str]) -> StudyConfig:
    """Return the study of a YAML file; overrides `key=value` go to `base`, or with `study.` before them to the study.

    Raises MmfastError listing what is wrong.
    """
    raw = read_settings(path, [])
    own = [text.removeprefix("study.") for text in overrides if text.startswith("study.")]
    others = [text for text in overrides if not text.startswith("study.")]
    raw["base"] = read_settings(raw.get("base") or {}, others)
    return load_section(StudyConfig, own, raw)


def run_study(study: StudyConfig, folder: Path, progress: bool = True, models: Sequence[str] = ()) -> list[Row]:
    """Train what is not trained yet below `folder`, write table.md, study.json and curves.csv, and return the rows.

    models: with some of the study's models, only their rows, and no file of results: several processes share a folder.
    Raises MmfastError for settings that do not fit, before anything is trained, and for a folder of another study.
    """
    from mmfast.trainer import completed

    for name in models:
        if name not in study.models:
            raise MmfastError(f"study: there is no model '{name}'; choose from {', '.join(study.models)}")
    for model, method in itertools.product(study.models, study.methods):
        for seed, settings in itertools.product(study.seeds, combinations(study, method)):
            plan(study, model, method, seed, folder, settings)
    check_plan(folder / PLAN, study)
    rows, curves = [], []
    for model, method in itertools.product(models or study.models, study.methods):
        values, (settings, failed) = {}, tuned(study, model, method, folder, progress)
        for seed in () if failed else study.seeds:
            config = plan(study, model, method, seed, folder, settings)
            try:
                found = completed(config, progress)
            except MmfastError as error:
                failed = str(error).splitlines()[0]
                continue
            measured = {name: found["test"][name] for name in study.metrics}
            if study.modalities:
                measured |= by_modality(config, study.metrics[0])
            if study.costs:
                measured |= costs(config, found)
            for name, value in measured.items():
                values.setdefault(name, []).append(value)
            curves += [[model, method, seed, *point] for point in curve_points(config)]
        rows.append(Row(model, method, values, failed, settings))
        if not models:
            write_results(study, folder, rows, curves)
    return rows


def combinations(study: StudyConfig, method: str) -> list[dict[str, Any]]:
    """Return the settings that a method tries on every model; one, of no settings, where it is not tuned."""
    axes = study.tune.get(method, {})
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def tuned(study: StudyConfig, model: str, method: str, folder: Path, progress: bool) -> tuple[dict[str, Any], str]:
    """Return the settings of a row, chosen on validation with the first seed, and why there are none, or ""."""
    from mmfast.trainer import completed

    tried, failed = [], ""
    settings = combinations(study, method)
    if len(settings) == 1:
        return settings[0], ""
    for number, one in enumerate(settings):
        config = plan(study, model, method, study.seeds[0], folder, one)
        try:
            tried.append((completed(config, progress, test=False)["valid"][config.train.monitor], -number))
        except MmfastError as error:
            failed = str(error).splitlines()[0]
    return (settings[-max(tried)[1]], "") if tried else ({}, failed)


def plan(
    study: StudyConfig, model: str, method: str, seed: int, folder: Path, settings: Mapping[str, Any] | None = None
) -> RunConfig:
    """Return the config of one run, with the settings it tries. Raises MmfastError naming the cell when it is wrong."""
    words = {"folder": str(folder), "model": slug(model), "seed": str(seed)}
    raw: dict[str, Any] = {}
    for part in (study.base, study.models[model], study.methods[method]):
        raw = merged(raw, filled(part, words))
    name = "-".join([slug(model), slug(method), *(slug(str(value)) for value in (settings or {}).values())])
    raw |= {"seed": seed, "out": str(folder), "name": f"{name}-seed{seed}"}
    try:
        return build_config(with_settings(raw, settings or {}))
    except MmfastError as error:
        raise MmfastError(f"study: {model}, {method}: {error}") from None


def slug(name: str) -> str:
    """Return a name as it stands in file names.

    >>> slug("+ CKD (w/o Gen.)")
    'ckd-w-o-gen'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of `new` over those of `old`.

    >>> merged({"train": {"epochs": 3}, "model": "bpr"}, {"train": {"patience": 5}})
    {'train': {'epochs': 3, 'patience': 5}, 'model': 'bpr'}
    """
    both = dict(old)
    for key, value in new.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both


def filled(value: Any, words: Mapping[str, str]) -> Any:
    """Return settings with {word} replaced in every text."""
    if isinstance(value, Mapping):
        return {key: filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, words) for inner in value]
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(f"{{{word}}}", text)
    return value


def check_plan(path: Path, study: StudyConfig) -> None:
    """Write the study's plan; raise MmfastError where one with other settings, seeds apart, is written there."""
    wanted = study.model_dump(mode="json")
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        known = StudyConfig.model_validate(yaml.safe_load(text)).model_dump(mode="json")  # with settings added since
        if {**known, "seeds": None} != {**wanted, "seeds": None}:
            raise MmfastError(f"study: '{path}' is of other settings; choose another folder (--out) or delete it")
    write_text(path, yaml.safe_dump(wanted, sort_keys=False))


def by_modality(config: RunConfig, metric: str) -> dict[str, float]:
    """Return "<metric> <modality>" of a finished run for every modality that it was trained with; kept beside it."""
    from mmfast.evaluate import evaluate
    from mmfast.run import Run

    folder = Path(config.out) / str(config.name)
    path = folder / BY_MODALITY
    if not path.is_file():
        run = Run.load(folder)
        shown = [m for m in run.model.modalities if m not in run.model.masked]
        found = {m: evaluate(run, hide=[other for other in shown if other != m]).metrics for m in shown}
        write_text(path, json.dumps(found, indent=1) + "\n")
    return {f"{metric} {m}": metrics[metric] for m, metrics in json.loads(path.read_text(encoding="utf-8")).items()}


def costs(config: RunConfig, found: Mapping[str, Any]) -> dict[str, float]:
    """Return what training a finished run took; seconds are the median epoch's, without the evaluation after it."""
    from mmfast.logs import read_log

    rows = read_log(Path(config.out) / str(config.name))
    peaks = [row["peak_bytes"] / 2**20 for row in rows if row.get("peak_bytes")]
    measured = {"parameters": found["parameters"]}
    measured |= {"epoch s": statistics.median(row["seconds"] for row in rows)} if rows else {}
    return measured | ({"peak MiB": max(peaks)} if peaks else {})


def curve_points(config: RunConfig) -> list[list[Any]]:
    """Return [epoch from 1, modality or "all", value] of the monitored validation metric, over a run's log."""
    from mmfast.logs import read_log

    points = []
    for row in read_log(Path(config.out) / str(config.name)):
        values = {"all": row.get("valid", {})} | row.get("modalities", {})
        points += [[row["epoch"] + 1, name, m[config.train.monitor]] for name, m in values.items() if m]
    return points


def write_results(study: StudyConfig, folder: Path, rows: list[Row], curves: list[list[Any]]) -> None:
    """Write the table, the values behind it, and the validation curves."""
    write_text(folder / TABLE, table_text(study, rows))
    found = [asdict(row) for row in rows]
    write_text(folder / RESULTS, json.dumps({"title": study.title, "rows": found}, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["model", "method", "seed", "epoch", "modality", "value"], *curves])
    write_text(folder / CURVES, text.getvalue())


def table_text(study: StudyConfig, rows: list[Row]) -> str:
    """Return the table as Markdown: mean, and in brackets the deviation where there are several seeds."""
    columns = list(dict.fromkeys([*study.metrics, *(name for row in rows for name in row.values)]))
    lines = [["model", "method", *columns, "seeds"], ["---"] * (len(columns) + 3)]
    for row in rows:
        count = max(map(len, row.values.values()), default=0)
        cells = [cell(row.values.get(name, []), DIGITS.get(name, 4)) for name in columns]
        chosen = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in row.tuned.items())
        method = f"{row.method} ({chosen})" if chosen else row.method
        lines.append([row.model, method, *cells, f"{count}, failed: {row.failed}" if row.failed else str(count)])
    return f"# {study.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(values: list[float], digits: int = 4) -> str:
    """Return the mean of some values, and their deviation unless all are the same.

    >>> cell([0.1, 0.2]), cell([23040, 23040], 0)
    ('0.1500 (0.0707)', '23,040')
    """
    if not values:
        return "-"
    spread = f" ({statistics.stdev(values):,.{digits}f})" if len(set(values)) > 1 else ""
    return f"{statistics.fmean(values):,.{digits}f}{spread}"
