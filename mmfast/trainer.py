"""fit(): one straight training loop, with early stopping on validation and a resume that repeats every bit."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmfast.checkpoint import atomic_write, write_text
from mmfast.config import RunConfig
from mmfast.device import cpu_threads, keep_freed_memory, resolve_device
from mmfast.distributed.data_parallel import check_over_ranks
from mmfast.errors import MmfastError
from mmfast.evaluate import COMPARED, Evaluation, NotFinite, evaluate, evaluation_notes
from mmfast.frameworks.base import Fit
from mmfast.logs import NoLog, RunLog
from mmfast.memory import MemoryNeed, check_memory, memory_need, peak_memory, start_peak
from mmfast.metrics import metric_mistakes
from mmfast.progress import Progress
from mmfast.ranks import all_rows, by_first, first_ahead, is_first, join_ranks
from mmfast.run import (
    BEST,
    Run,
    dataset_of,
    drop_if_only_started,
    environment,
    load_best,
    new_config,
    new_run_folder,
    read_metrics,
    resumed_config,
    store_config,
    write_environment,
)
from mmfast.seeds import derive_seed
from mmfast.training import Training, build_training

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset

CHECK_STEPS_CUDA = 50  # reading a loss makes the CPU wait for the GPU; on the CPU it is free
LOWER = "a lower train.learning_rate may help"


class Diverged(Exception):
    """A loss term or a vector became nan or inf; the message names the term, the epoch and the batch."""


def fit(
    config: RunConfig | Mapping[str, Any] | None,
    dataset: Dataset | None = None,
    *,
    resume: Path | str | None = None,
    progress: bool = True,
    test: bool = True,
) -> Run:
    """Train by `config`, select on validation, evaluate the test part once, and return the run.

    `config` may be a nested mapping. `dataset` overrides the one that config.data names. `resume` continues the run in
    that folder (`config` may then be None); on the CPU the result is bit-identical to a run never interrupted.
    test=False leaves the test part alone, for a search; resuming later looks at it. Ctrl-C raises KeyboardInterrupt. A
    new run that ends so, or by an error, before its first checkpoint leaves no folder. All ranks of a job call it.
    Raises MmfastError for settings that do not fit, and when the loss is not finite before the first evaluation.

    >>> run = fit(load_config("configs/demo_freedom.yaml"))  # doctest: +SKIP
    >>> run.metrics["test"]["recall@20"]  # doctest: +SKIP
    """
    folder, config = (None, new_config(config)) if resume is None else resumed_config(resume, config)
    check_metrics_of(config)
    keep_freed_memory()
    device = join_ranks(resolve_device(config.device), config.distributed.timeout)
    check_over_ranks(config)
    progress = progress and is_first()
    with first_ahead():
        dataset = dataset if dataset is not None else dataset_of(config, progress)
    with cpu_threads(config.threads), Progress(config.train.epochs, config.train.monitor, progress) as shown:
        # The folder comes last: a model that cannot be built leaves none behind.
        with first_ahead():
            run = build_training(config, dataset, folder or Path(config.out) / (config.name or ""), device)
        need = checked_need(run)
        run.divide()
        run.folder = folder or by_first(lambda: new_run_folder(config))
        with continuable(run.folder, shown, new=folder is None):
            announce(run, f"{'resuming' if folder else 'run'} {run.folder} on {device}, {need}", shown)
            run.prepare(fit_of(run, shown, test))
            run.restore()
            return finish(run, train(run, shown), test)


def completed(config: RunConfig, progress: bool = True, test: bool = True) -> dict[str, Any]:
    """Return the metrics of the run that `config` names: as they stand, or after training it or going on with it."""
    folder = Path(config.out) / str(config.name)
    if (folder / "metrics.json").is_file():
        metrics = read_metrics(folder)
        if "test" in metrics or not test:
            return metrics
    begun = (folder / "config.yaml").is_file()
    return fit(None if begun else config, resume=folder if begun else None, progress=progress, test=test).metrics


def check_metrics_of(config: RunConfig) -> None:
    """Raise MmfastError for a metric that is not known, or a monitor that is not evaluated."""
    mistakes = metric_mistakes(config.evaluate.metrics, config.evaluate.top_k, config.train.monitor)
    if mistakes:
        raise MmfastError("; ".join(mistakes))


def checked_need(run: Training) -> MemoryNeed:
    """Return the memory that training takes. Raises MmfastError where there is less, if the config wants it checked."""
    need = memory_need(run.framework, run.dataset)
    if run.config.check_memory:
        check_memory(need, run.device)
    return need


def announce(run: Training, where: str, shown: Progress) -> None:
    """Tell what is trained on and where, and what evaluation will leave out, and write environment.json."""
    by_first(lambda: write_environment(run.folder, environment(run.config, run.device)))
    shown.say(f"{run.dataset}\n{where}")
    for note in evaluation_notes(run.dataset, run.config.evaluate):
        shown.say(note)


def fit_of(run: Training, shown: Progress, test: bool) -> Fit:
    """Return what the run's framework may know of it, and the ways to train and to evaluate."""

    def validate_now() -> dict[str, float]:
        return evaluate(run.framework.model, run.dataset, "valid", run.config.evaluate).metrics

    inside = partial(fit_inside, run.folder, run.dataset, shown)
    return Fit(run.config, run.dataset, run.device, run.folder, shown.say, inside, validate_now, test)


def fit_inside(folder: Path, dataset: Dataset, shown: Progress, config: RunConfig, name: str, test: bool) -> Run:
    """Return the run `name` below another run's folder: trained, or continued where it was interrupted."""
    finished, begun = by_first(
        lambda: tuple((folder / name / file).is_file() for file in ("metrics.json", "config.yaml"))
    )
    if not finished:
        config = config.model_copy(update={"name": name, "out": str(folder)})
        shown.say(f"{'back to' if begun else 'first'} {name}")
        with shown.paused():
            fit(config, dataset, resume=folder / name if begun else None, progress=shown.show, test=test)
    # Opened anew in any case, so that a resumed run and one in a single go have the same model.
    return Run.load(folder / name, dataset, config.device)


@contextlib.contextmanager
def continuable(folder: Path, shown: Progress, new: bool) -> Iterator[None]:
    """Leave no folder of a `new` run that ends early with nothing to continue; otherwise say after Ctrl-C how to."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if new and is_first() and drop_if_only_started(folder):
            shown.say(f"ended before the first checkpoint: '{folder}' held nothing to continue and is removed")
        elif isinstance(error, KeyboardInterrupt):
            shown.say(f"interrupted; continue with `mmfast train --resume {folder}`")
        raise


def train(run: Training, shown: Progress) -> str:
    """Run epochs until all are done, patience is exceeded or the loss diverges; return why it ended."""
    config, state = run.config, run.state
    if not run.done:
        by_first(lambda: store_config(run.folder, config))  # a resumed run may go on with other settings
    start_peak(run.device)
    with RunLog(run.folder, state.log_bytes, state.epoch, config.tensorboard) if is_first() else NoLog() as log:
        while not run.done:
            started = time.perf_counter()
            lr = run.learning_rate(state.epoch)
            run.set_learning_rate(lr)
            try:
                row: dict[str, Any] = {"epoch": state.epoch, "lr": lr, "loss": train_epoch(run, state.epoch, shown)}
                row["seconds"] = time.perf_counter() - started
                if measures := run.framework.measures():
                    row["measures"] = measures
                if (state.epoch + 1) % config.train.eval_every == 0:
                    row["valid"] = validate(run)
                    if config.evaluate.modalities:
                        row["modalities"] = validate_modalities(run)
                    run.update_best(state.epoch, row["valid"])
            except Diverged as reason:
                if state.best < 0:
                    raise MmfastError(
                        f"{reason}; no evaluation came before, so there is nothing to keep; {LOWER}"
                    ) from None
                shown.say(f"{reason}; training ended, the best result so far is kept; {LOWER}")
                return str(reason)
            row |= {"total_seconds": time.perf_counter() - started, "peak_bytes": peak_memory(run.device)}
            log.write(row)
            state.epoch += 1
            if run.checkpoint_due:
                state.log_bytes = log.sync()
                run.save_last()
            shown.end_epoch(row, state.best, state.best_epoch)
    return "patience" if state.counter > config.train.patience else "epochs"


def train_epoch(run: Training, epoch: int, shown: Progress) -> dict[str, float]:
    """Pass once over the sampler's batches and return the mean of every loss term. Raises Diverged."""
    on_cuda = run.device.type == "cuda"
    check_every = CHECK_STEPS_CUDA if on_cuda else 1
    steps = run.sampler.steps
    totals: dict[str, float] = {}
    waiting: list[dict[str, torch.Tensor]] = []
    run.framework.train()
    shown.start_epoch(epoch, steps)
    # A model that draws from torch's global generator (F.dropout) must repeat too; the generator itself is given back.
    with torch.random.fork_rng(devices=[run.device] if on_cuda else []):
        torch.manual_seed(derive_seed(run.config.seed, "steps", epoch))
        run.start_epoch(epoch)
        for step, batch in enumerate(run.sampler.epoch(epoch), start=1):
            waiting.append(run.step(batch))
            if len(waiting) >= check_every or step == steps:
                add_losses(totals, waiting, epoch, step - len(waiting))
                waiting.clear()
                if shown.due():
                    shown.step(step, sum(totals.values()) / step)
        run.optimizer.flush()
        run.framework.on_epoch_end()
    return {name: total / steps for name, total in totals.items()}


def validate(run: Training) -> dict[str, float]:
    """Return the validation metrics. Raises Diverged when the epoch's last step left vectors not finite."""
    try:
        return evaluate(run.framework.model, run.dataset, "valid", run.config.evaluate).metrics
    except NotFinite:
        raise Diverged(
            f"the model's vectors became nan or inf in the last batch of epoch {run.state.epoch + 1}"
        ) from None


def validate_modalities(run: Training) -> dict[str, dict[str, float]]:
    """Return the validation metrics of each modality that is trained, the others hidden."""
    model = run.framework.model
    shown = [m for m in model.modalities if m not in model.masked]
    hides = {m: [other for other in shown if other != m] for m in shown}
    return {
        m: evaluate(model, run.dataset, "valid", run.config.evaluate, hide=hide).metrics for m, hide in hides.items()
    }


def add_losses(totals: dict[str, float], waiting: list[dict[str, torch.Tensor]], epoch: int, first: int) -> None:
    """Add the terms of some steps, the first of which is batch `first`. Raises Diverged at a value not finite."""
    for offset, terms in enumerate(waiting):
        for name, term in terms.items():
            value = float(term)
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss term '{name}' became {value} at epoch {epoch + 1}, batch {first + offset + 1}"
                )
            totals[name] = totals.get(name, 0.0) + value


def finish(run: Training, ended: str, look_at_test: bool) -> Run:
    """Load the best model, evaluate the test part where asked, write metrics.json and per_user.parquet."""
    config, model, state = run.config, run.framework.model, run.state
    if state.best < 0:
        # Too few epochs for one evaluation (or none at all): the model as it stands is the result.
        run.update_best(state.epoch - 1, evaluate(model, run.dataset, "valid", config.evaluate).metrics)
    run.save_best()
    best = load_best(run.folder, model, config, run.dataset)
    if best["epoch"] != state.best_epoch:
        raise MmfastError(
            f"'{run.folder / BEST}' is of epoch {best['epoch'] + 1} but the best of the {state.epoch} epochs was "
            f"{state.best_epoch + 1}: the run had gone further before it was interrupted; resume it with train.epochs "
            f"of at least {best['epoch'] + 1}"
        )
    earlier, told = run.framework.chosen(run.folder, best["valid"], config.train.monitor)
    if earlier is not None:
        best = load_best(earlier, model, config, run.dataset)
    metrics = {
        "monitor": config.train.monitor,
        "best_epoch": best["epoch"],
        "epochs": state.epoch,
        "ended": ended,
        "parameters": trained_numbers(run.framework),
        "evaluate": {name: getattr(config.evaluate, name) for name in COMPARED},
        **({} if earlier is None else {"from": earlier.name}),
        **told,
        "valid": best["valid"],
    }
    if look_at_test:
        test = evaluate(model, run.dataset, "test", config.evaluate)
        metrics["test"] = test.metrics
        by_first(lambda: write_per_user(run, test))
    by_first(lambda: write_text(run.folder / "metrics.json", json.dumps(metrics, indent=1) + "\n"))
    model.eval()
    return Run(run.folder, config, run.dataset, model, metrics)


def trained_numbers(module: torch.nn.Module) -> int:
    """Return how many numbers are trained, blocks that lie on one rank each taken from all of them."""
    count = torch.zeros(2, dtype=torch.int64)
    for parameter in module.parameters():
        if parameter.requires_grad:
            count[int(getattr(parameter, "of_one_rank", False))] += parameter.numel()
    device = next(module.parameters()).device
    return int(count[0]) + int(all_rows(count[1:].to(device)).sum())


def write_per_user(run: Training, test: Evaluation) -> None:
    """Write per_user.parquet: original user id and test metrics."""
    table = test.per_user.with_columns(user=run.dataset.user_ids.gather(test.users))
    atomic_write(run.folder / "per_user.parquet", table.write_parquet)
