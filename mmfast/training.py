"""What one training run is made of, built from its config, and how it goes to disk and comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmfast.checkpoint import check_fingerprint, disk_errors, load_checkpoint, load_state, save_checkpoint
from mmfast.config import RunConfig
from mmfast.distributed.data_parallel import split_batch
from mmfast.distributed.partitioned_graph import partition_graphs
from mmfast.distributed.sharded_table import ShardedTable
from mmfast.distributed.tables import divide_tables
from mmfast.embeddings import row_tables
from mmfast.frameworks.base import Fit, Framework
from mmfast.optim import Adagrad, Adam, TableOptimizer
from mmfast.ranks import by_first, is_first, world_size
from mmfast.run import BEST, LAST, build_framework, drop_results
from mmfast.seeds import derive_generator, derive_seed

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch, Sampler


@dataclass
class State:
    """Where a run stands: all that resuming needs beside parameters and optimiser."""

    epoch: int = 0
    """Epochs finished."""
    best: float = -1.0
    """Best monitored value so far; protocol section 4 starts at -1."""
    best_epoch: int = -1
    counter: int = 0
    """Evaluations since the last strict improvement."""
    log_bytes: int = 0
    """Length of log.jsonl when this state was saved."""


@dataclass
class Training:
    """The parts of one run."""

    config: RunConfig
    dataset: Dataset
    folder: Path
    device: torch.device
    framework: Framework
    optimizer: TableOptimizer
    sampler: Sampler
    state: State
    unsaved_best: dict[str, torch.Tensor] | None = None
    """The best model, kept in memory until the next checkpoint: early on nearly every epoch is the best so far."""
    best_valid: dict[str, float] | None = None
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> bool:
        """Whether all epochs are run or patience is exceeded."""
        train = self.config.train
        return self.state.epoch >= train.epochs or self.state.counter > train.patience

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch (from 0): learning_rate * s0 ** (epoch / s1)."""
        factor, period = self.config.train.lr_decay
        return self.config.train.learning_rate * factor ** (epoch / period)

    def set_learning_rate(self, value: float) -> None:
        """Give every parameter group this learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def divide(self) -> None:
        """Leave each rank its part of the tables by the plan; every rank calls it, once and before training."""
        if world_size() > 1 and self.config.distributed.plan != "data":
            divide_tables(self.framework, self.config)
            self.optimizer = build_optimizer(self.config, self.framework)

    def prepare(self, fit: Fit) -> None:
        """Let the frameworks do what comes first; they may add parameters, so the optimiser is built anew."""
        self.framework.prepare(fit)
        self.optimizer = build_optimizer(self.config, self.framework)

    def start_epoch(self, epoch: int) -> None:
        """Let the model and its frameworks prepare an epoch, and divide the rows of their graphs by the plan."""
        self.framework.on_epoch_start(epoch, derive_generator(self.config.seed, "epoch", epoch))
        divided = world_size() > 1 and self.config.distributed.plan in ("row", "auto")
        if divided and self.framework.model.over_ranks == "rows":
            partition_graphs(self.framework)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Take one optimiser step on a batch, of which every rank has its part, and return the detached terms."""
        with split_batch(batch) as part:
            return self.framework.step(part.to(self.device), self.optimizer)

    def update_best(self, epoch: int, valid: Mapping[str, float]) -> None:
        """Keep the model when the monitored value is strictly better than all before, else count one more."""
        value = valid[self.config.train.monitor]
        if value > self.state.best:
            self.state.best, self.state.best_epoch, self.state.counter = value, epoch, 0
            model = self.framework.model.state_dict()
            kept = model.items() if is_first() else ()
            self.unsaved_best = {f"model/{name}": tensor.to("cpu", copy=True) for name, tensor in kept}
            self.best_valid = dict(valid)
        else:
            self.state.counter += 1

    def save_best(self) -> None:
        """Write the best model, if it is not on disk yet."""
        if self.unsaved_best is None:
            return
        about = {**self.about, "epoch": self.state.best_epoch, "valid": self.best_valid}
        by_first(lambda: save_checkpoint(self.folder / BEST, self.unsaved_best, about))
        by_first(lambda: drop_results(self.folder))
        self.unsaved_best = None

    @property
    def checkpoint_due(self) -> bool:
        """Whether the checkpoint is written after this epoch."""
        train = self.config.train
        waited = by_first(lambda: time.monotonic() - self.saved_at >= train.checkpoint_seconds)
        return self.done or (waited and self.state.epoch % train.checkpoint_every == 0)

    def save_last(self) -> None:
        """Write the best model and then the checkpoint that `restore` starts from."""
        self.save_best()
        tensors, scalars = flatten_optimizer(self.optimizer)
        tensors |= {f"framework/{name}": tensor for name, tensor in self.framework.state_dict().items()}
        about = {**self.about, "state": asdict(self.state), "optimizer": scalars}
        by_first(lambda: save_checkpoint(self.folder / LAST, tensors, about))
        by_first(lambda: drop_results(self.folder))
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Continue from the last checkpoint of the folder, if one was written; sweep out half-written files."""
        for unfinished in self.folder.glob(".*.part") if is_first() else ():
            with disk_errors(unfinished):
                unfinished.unlink(missing_ok=True)
        if not (self.folder / LAST).is_file():
            return
        advice = "the run cannot be continued: start a new one"
        if (self.folder / "metrics.json").is_file():
            advice += f"; its best model is still there: `mmfast evaluate {self.folder}`"
        checkpoint = load_checkpoint(self.folder / LAST, advice)
        check_fingerprint(checkpoint, self.dataset.name, self.dataset.fingerprint)
        load_state(self.framework, checkpoint.tensors_under("framework/"), checkpoint.path)
        restore_optimizer(self.optimizer, checkpoint.tensors_under("optimizer/"), checkpoint.meta["optimizer"])
        self.state = State(**checkpoint.meta["state"])

    @cached_property
    def about(self) -> dict[str, Any]:
        """What every checkpoint says of its run: model, data and config."""
        return {
            "model": self.config.model.name,
            "dataset": self.dataset.name,
            "num_users": self.dataset.num_users,
            "num_items": self.dataset.num_items,
            "fingerprint": self.dataset.fingerprint,
            "config": self.config.to_yaml(),
        }


def build_training(config: RunConfig, dataset: Dataset, folder: Path, device: torch.device) -> Training:
    """Return a run before its first epoch: model, frameworks, optimiser and sampler of the config, nothing divided."""
    framework = build_framework(config, dataset, folder).to(device)
    sampler = build_sampler(config, dataset, framework.uses_negatives)
    optimizer = build_optimizer(config, framework)
    return Training(config, dataset, folder, device, framework, optimizer, sampler, State())


def build_optimizer(config: RunConfig, framework: Framework) -> TableOptimizer:
    """Return the optimiser over every trainable parameter in one group (Adam: protocol section 3)."""
    parameters = [parameter for parameter in framework.parameters() if parameter.requires_grad]
    # Where each rank has a table, none of its rows wait: ranks read other rows and would round at other times.
    train, alone = config.train, world_size() == 1
    tables = [table for table in row_tables(framework) if alone or isinstance(table, ShardedTable)]
    if train.optimizer == "adagrad":
        return Adagrad(parameters, lr=train.learning_rate, tables=tables)
    return Adam(parameters, lr=train.learning_rate, weight_decay=train.weight_decay, tables=tables)


def build_sampler(config: RunConfig, dataset: Dataset, with_negatives: bool) -> Sampler:
    """Return the sampler of the config; a model without negatives gets none."""
    from mmfast.data.sampler import Sampler

    train = config.train
    return Sampler(
        dataset,
        train.batch_size,
        derive_seed(config.seed, "sampler"),
        order=train.sampler,
        negatives=train.negatives,
        with_negatives=with_negatives,
    )


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return an optimiser's state as tensors "optimizer/<parameter>/<name>" and JSON for everything else."""
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{parameter}/{name}"] = value
            else:
                scalars.setdefault(str(parameter), {})[name] = value
    return tensors, {"param_groups": state["param_groups"], "scalars": scalars}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]
) -> None:
    """Give `optimizer` the state that `flatten_optimizer` returned."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        parameter, key = name.split("/")
        state.setdefault(int(parameter), {})[key] = tensor
    for parameter, values in meta["scalars"].items():
        state.setdefault(int(parameter), {}).update(values)
    groups = [
        {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        for group in meta["param_groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
