"""Typed configs: defaults live in the class they configure, unknown keys are errors, all mistakes are told at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

import pydantic
import yaml
from pydantic import Field, PositiveFloat, PositiveInt, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mmfast.errors import MmfastError, suggest
from mmfast.settings import read_settings

C = TypeVar("C", bound="Config")
NUMBER = re.compile(r"\b(int|float)\b")
MOST_SEED = 2**63 - 1  # generators take signed 64-bit seeds


class Config(pydantic.BaseModel):
    """Base of every config: frozen, unknown keys refused, attribute docstrings are the help texts."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, raw: Any) -> Any:
        """Let a truth value where a number is wanted be a word, which is refused: Python takes True for 1."""
        if not isinstance(raw, Mapping):
            return raw
        given = {name: value for name, value in raw.items() if isinstance(value, bool) and name in cls.model_fields}
        kinds = {name: str(cls.model_fields[name].annotation) for name in given}
        words = {n: str(v).lower() for n, v in given.items() if "bool" not in kinds[n] and NUMBER.search(kinds[n])}
        return {**raw, **words}


class ModelConfig(Config):
    """What every backbone's config has; a backbone adds its own fields in `class Config(ModelConfig)`."""

    name: str = ""
    """Registered name of the backbone."""
    embedding_dim: int = Field(64, ge=1)
    """Width D of user and item vectors (protocol section 1)."""


class FrameworkConfig(Config):
    """What every training framework's config has."""

    name: str = ""
    """Registered name of the framework."""

    def missing(self, data: DataConfig) -> list[str]:
        """Return what the framework needs that is not on this machine, a sentence each that says where it is from."""
        return []


class DataConfig(Config):
    """Which data set, which of its features, and how it is split."""

    name: str = Field("demo", min_length=1)
    """Built-in name, folder under the data root, or path of a prepared or plain folder."""
    root: str | None = None
    """Folder that holds the data sets; None reads MMFAST_DATA, else ./data."""
    features: list[str] | dict[str, str] | None = None
    """None: every modality found; a list: these modalities; a mapping: modality -> file."""
    split: str = "auto"
    """auto (the split the data carry, else mmrec), column, mmrec, lattice, user-time, leave-one-out, time or cold."""
    split_column: str = Field("split", min_length=1)
    """Column of the interactions that carries the labels 0/1/2 when split is column."""
    k_core: int | None = Field(None, ge=0)
    """Drop users and items with fewer interactions, iterated; None: 5 for raw Amazon and MicroLens files, else 0."""
    split_seed: int | None = Field(None, ge=0, le=MOST_SEED)
    """Seed of random splits; None: 999, and 123 for cold (the LATTICE script's)."""
    cold_users: Literal["drop", "keep"] = "drop"
    """Validation and test rows of users without a training row (protocol section 2.3)."""


class TrainConfig(Config):
    """The training loop of protocol sections 3 to 5."""

    epochs: int = Field(1000, ge=0)
    """Most epochs to run; early stopping usually ends sooner."""
    batch_size: int = Field(2048, ge=1)
    """Training rows per step."""
    optimizer: Literal["adam", "adagrad"] = "adam"
    """adam: that of the papers. adagrad: torch's, which leaves alone what a step has no gradient for."""
    learning_rate: float = Field(1e-3, gt=0)
    """The optimiser's learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """Coupled L2 added to the gradient; of Adam alone."""
    lr_decay: tuple[PositiveFloat, PositiveFloat] = (1.0, 50.0)
    """(s0, s1), both above 0: the learning rate of epoch e is multiplied by s0 ** (e / s1)."""
    sampler: Literal["rows", "users"] = "rows"
    """rows: one pass over the training rows; users: user-balanced draws (protocol section 5.4)."""
    negatives: Literal["train_items", "all_items"] = "train_items"
    """Items that may be drawn as negatives."""
    eval_every: int = Field(1, ge=1)
    """Epochs between evaluations on validation."""
    patience: int = Field(20, ge=0)
    """Stop when this many evaluations in a row are exceeded without a strict improvement."""
    monitor: str = "recall@20"
    """Validation metric that selects the checkpoint."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs matrix products under autocast; tables and losses stay float32."""
    checkpoint_every: int = Field(1, ge=1)
    """Epochs between writes of the checkpoint that resuming starts from."""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """Least time between two such writes; epochs since the last one are repeated when a killed run is resumed."""

    @model_validator(mode="after")
    def _decay_is_of_adam(self) -> TrainConfig:
        if self.optimizer == "adagrad" and self.weight_decay:
            raise PydanticCustomError(
                "weight_decay", "optimizer=adagrad has no weight_decay; set weight_decay=0 or optimizer=adam"
            )
        return self


class EvaluateConfig(Config):
    """Full ranking by protocol section 6."""

    top_k: tuple[PositiveInt, ...] = Field((5, 10, 20, 50), min_length=1)
    """Cut-offs K; one above the number of ranked items is of the whole ranking, which is told."""
    metrics: tuple[str, ...] = Field(("recall", "ndcg", "precision", "map"), min_length=1)
    """Metrics reported at every cut-off."""
    ndcg: Literal["standard", "retrieved"] = "standard"
    """retrieved: the ideal list holds only the hits that were retrieved (LATTICE, MICRO and CKD code)."""
    round_digits: int | None = Field(None, ge=0)
    """Round every value before it is compared or reported (MMRec: 4); None keeps full precision."""
    batch_users: int = Field(1024, ge=1)
    """Users scored at a time."""
    candidates: Literal["all", "cold"] = "all"
    """Items ranked: all, or only those without a training row."""
    modalities: bool = False
    """Log the validation metrics of every modality alone too, the others hidden: the curves of CKD's Figure 1."""


class DistributedConfig(Config):
    """Training by the ranks that torchrun starts; without it nothing here has a meaning."""

    plan: Literal["data", "row", "table", "column", "auto"] = "data"
    """Every rank has its part of each batch and, by data, all tables of IDs; else blocks of them, or whole ones; by
    auto, as TorchRec's planner chooses for each."""
    tables: Literal["mmfast", "torchrec"] = "mmfast"
    """Who keeps and trains tables that are divided: mmfast, or TorchRec with FBGEMM's fused Adagrad."""
    timeout: float = Field(1800.0, gt=0)
    """Seconds that a rank waits for the others before it gives up."""


class RunConfig(Config):
    """One run: model x data x framework x training x evaluation."""

    model: SerializeAsAny[ModelConfig] = ModelConfig()
    """The backbone: its name, or a mapping with `name` and its own options."""
    framework: tuple[SerializeAsAny[FrameworkConfig], ...] = ()
    """Training frameworks around the backbone, outermost last; empty is plain training."""
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    distributed: DistributedConfig = DistributedConfig()
    seed: int = Field(999, ge=0, le=MOST_SEED)
    """Seed of initial values, batches, negatives and graph sampling."""
    device: str = "auto"
    """auto (CUDA when this build has CUDA kernels, else the CPU), cpu, cuda or cuda:N."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; None keeps torch's choice."""
    check_memory: bool = True
    """Refuse a run that is estimated to need more memory than is free; False tries it."""
    out: str = "runs"
    """Folder that receives run folders."""
    name: str | None = None
    """Name of the run folder; None composes it of data, model, framework, seed and time."""
    tensorboard: bool = True
    """Write TensorBoard events beside the JSON-lines log."""
    search: dict[str, list[Any] | dict[str, Any]] = Field({})
    """Settings that `mmfast search` tries: key -> list of values, or {low, high[, log]}; training ignores them."""
    imports: tuple[str, ...] = ()
    """Modules imported first, so that models, frameworks and data sets from outside register themselves."""

    @model_validator(mode="after")
    def _torchrec_has_adagrad(self) -> RunConfig:
        if self.distributed.tables == "torchrec" and (
            self.train.optimizer != "adagrad" or self.distributed.plan == "data"
        ):
            raise PydanticCustomError(
                "torchrec",
                "distributed.tables=torchrec needs train.optimizer=adagrad, whose fused steps have the numbers of one "
                "process, and distributed.plan=row, table, column or auto",
            )
        return self

    @field_validator("name")
    @classmethod
    def _one_component(cls, name: str | None) -> str | None:
        if name is not None and (name in ("", ".", "..") or any(mark in name for mark in "/\\\0")):
            raise PydanticCustomError(
                "run_name", "a run's name is one folder name without / and \\; set out=... for its place"
            )
        return name

    def to_yaml(self) -> str:
        """Return the resolved config as YAML that `load_config` reads back to an equal config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: str | Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Return the run described by a YAML file (or a mapping like one) and `key=value` overrides, which win.

    Values are YAML. The order of the overrides does not matter, but of two for the same key the last one counts.
    Naming another model or data set drops the options that the file gives to the former.

    >>> load_config(None, ["model.num_layers=1", "model=lightgcn", "train.epochs=5"]).model.num_layers
    1

    Raises MmfastError that lists every unknown key, wrong type and bad value at once.
    """
    return build_config(read_settings(path, overrides))


def load_section(kind: type[C], overrides: Iterable[str], start: Mapping[str, Any] | None = None) -> C:
    """Return a config of one kind from `key=value` settings, over those of `start` where it is given.

    Raises MmfastError that lists all mistakes at once.

    >>> load_section(TrainConfig, ["epochs=5"]).epochs
    5
    """
    errors: list[str] = []
    section = _parse(kind, read_settings(start, overrides, ()), "", errors)
    if section is None:
        raise _mistakes(errors)
    return section


def build_config(raw: Mapping[str, Any], check: Callable[[DataConfig], None] | None = None) -> RunConfig:
    """Return the RunConfig of a nested mapping, as a YAML file holds it. Raises MmfastError listing all mistakes.

    `check` may raise for the section of the data; with it, what the frameworks lack is a mistake too.
    """
    from mmfast.metrics import metric_mistakes

    raw, errors = dict(raw), []
    own = {section: raw.pop(section) for section in ("model", "framework") if section in raw}
    if isinstance(raw.get("data"), str):
        raw["data"] = {"name": raw["data"]}
    run = _parse(RunConfig, raw, "", errors)
    _import(raw.get("imports"), errors)
    train = run.train if run is not None else _parse(TrainConfig, raw.get("train") or {}, "train.", [])
    evaluate = run.evaluate if run is not None else _parse(EvaluateConfig, raw.get("evaluate") or {}, "evaluate.", [])
    if evaluate is not None:
        errors += metric_mistakes(evaluate.metrics, evaluate.top_k, None if train is None else train.monitor)
    data = run.data if run is not None else _parse(DataConfig, raw.get("data"), "data.", [])
    if data is not None and check is not None:
        try:
            check(data)
        except MmfastError as error:
            errors.append(f"data: {error}")
    sections = _own_sections(own, errors)
    if data is not None and check is not None:
        errors += [text for section in sections["framework"] if section for text in section.missing(data)]
    if errors:
        raise _mistakes(errors)
    return run.model_copy(update=sections)


def _mistakes(errors: list[str]) -> MmfastError:
    return MmfastError("\n  ".join([f"{len(errors)} mistake{'s' * (len(errors) > 1)} in the config:", *errors]))


def _import(modules: Any, errors: list[str]) -> None:
    """Import the modules that register what the config names; what is no list of names is told elsewhere."""
    for module in modules if isinstance(modules, (list, tuple)) else ():
        try:
            import_module(str(module))
        except ImportError as error:
            errors.append(f"imports: cannot import '{module}' ({error}); check the name and PYTHONPATH")


def _own_sections(own: Mapping[str, Any], errors: list[str]) -> dict[str, Any]:
    """Parse what the classes of the model and the frameworks declare; a section that is wrong is None."""
    from mmfast.registry import FRAMEWORKS, MODELS

    model = None
    if "model" in own:
        model = _named_section(MODELS, own["model"], "model", errors)
    else:
        errors.append(f"model: missing; choose one of {', '.join(MODELS.names())}, for example model=lightgcn")
    frameworks = own.get("framework") or ()
    if not isinstance(frameworks, (list, tuple)):
        frameworks = [frameworks]
    sections = tuple(_named_section(FRAMEWORKS, section, "framework", errors) for section in frameworks)
    if len(sections) > 1 and None not in sections:
        _check_composition([FRAMEWORKS.get(section.name) for section in sections], errors)
    return {"model": model, "framework": sections}


def _check_composition(frameworks: list[Any], errors: list[str]) -> None:
    from mmfast.frameworks.base import check_composition

    try:
        check_composition(frameworks)
    except MmfastError as error:
        errors.append(str(error))


def _named_section(registry: Any, section: Any, place: str, errors: list[str]) -> Any:
    """Parse `name` or `{name: ..., option: ...}` into the Config of the registered class."""
    given = section
    section = {"name": section} if isinstance(section, str) else section
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str) or not section["name"]:
        known = ", ".join(registry.names()) or "(none is installed)"
        errors.append(f"{place}: got {given!r}; give a name, or a mapping with a name and its options. Names: {known}")
        return None
    try:
        entry = registry.get(section["name"])
    except MmfastError as error:
        errors.append(f"{place}.name: {error}")
        return None
    return _parse(entry.Config, section, f"{place}.", errors)


def _parse(kind: type[C], raw: Any, prefix: str, errors: list[str]) -> C | None:
    try:
        return kind.model_validate(raw)
    except pydantic.ValidationError as failure:
        told: set[tuple[Any, ...]] = set()
        for mistake in failure.errors():
            place, sentence = _sentence(kind, raw, mistake)
            if place not in told:  # a union has a mistake for each of its types, and a wrong entry spoils its list
                errors.append(f"{prefix}{sentence}")
            told.add(place)
    return None


def _sentence(kind: type[Config], raw: Any, mistake: Mapping[str, Any]) -> tuple[tuple[Any, ...], str]:
    """Return the keys that lead to the wrong field, and what is wrong there."""
    loc = mistake["loc"]
    where = ".".join(str(step) for step in loc)
    if mistake["type"] == "extra_forbidden":
        known = _fields_at(kind, loc[:-1])
        near = suggest(loc[-1], known) or "".join(f" Did you mean '{key}'?" for key in _elsewhere(kind, loc)[:1])
        return loc, f"{where}: unknown key.{near} Known here: {', '.join(known)}"
    place, field, fields, given = (), None, kind.model_fields, raw
    for step in loc:
        if step not in fields:
            break
        place, field, given = (*place, step), fields[step], given[step] if isinstance(given, Mapping) else given
        fields = getattr(field.annotation, "model_fields", {})
    if field and len(set(get_args(field.annotation)) - {NoneType}) > 1 and get_origin(field.annotation) is UnionType:
        return place, f"{'.'.join(place)}: got {given!r}; wanted {field.description}"
    return place, f"{where}: got {mistake['input']!r}; {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def _elsewhere(kind: type[Config], loc: tuple[Any, ...]) -> list[str]:
    """Return where a key without its section belongs, such as "train.learning_rate"."""
    if len(loc) > 1:
        return []
    known = {section: _fields_at(kind, [section]) for section in kind.model_fields}
    if kind is RunConfig:
        known["model"] = list(ModelConfig.model_fields)
    return [f"{section}.{loc[0]}" for section, fields in known.items() if loc[0] in fields]


def _fields_at(kind: type[Config], path: Iterable[Any]) -> list[str]:
    for step in path:
        annotation = kind.model_fields[step].annotation if step in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Config)):
            return []
        kind = annotation
    return list(kind.model_fields)
