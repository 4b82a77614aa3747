"""A probe: the run of a config on made-up data of a smaller size, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmfast.config import RunConfig, build_config
from mmfast.data.synthetic import power_law_dataset, random_features
from mmfast.device import keep_freed_memory, resolve_device
from mmfast.distributed.partitioned_graph import divisible_graphs
from mmfast.embeddings import EmbeddingTable
from mmfast.evaluate import evaluate
from mmfast.memory import PeakMemory
from mmfast.training import build_training

if TYPE_CHECKING:
    from mmfast.data.sampler import Batch
    from mmfast.embeddings import RowTable
    from mmfast.training import Training

KINDS = ("rows", "layers", "results", "gradients", "row gradients", "table gradients")
WARM, TIMED = 3, 20
"""Steps that fill caches and allocate the optimiser's state, and steps that are timed."""


@dataclass(frozen=True)
class Size:
    """The size of a data set: users, items, interactions to train on, and the width of the features per modality."""

    users: int
    items: int
    interactions: int
    features: Mapping[str, int] = field(default_factory=dict)

    def part(self, share: float) -> Size:
        """Return a data set of a `share` of the users, items and interactions."""
        return Size(*(max(1, round(n * share)) for n in (self.users, self.items, self.interactions)), self.features)


@dataclass(frozen=True)
class Probe:
    """What was measured: bytes, seconds, and bytes that ranks would exchange in a step."""

    size: Size
    start_bytes: int
    """Most private memory while the run was built; on CUDA, allocated."""
    train_bytes: int
    """Most of it while it trained and was evaluated."""
    tables: tuple[tuple[int, int], ...]
    """Rows and columns of the tables of IDs."""
    graph_bytes: int
    """Bytes of the graphs whose rows ranks divide."""
    traffic: dict[str, int]
    """Bytes of a step: "rows" looked up in tables of IDs, "layers" of propagation and their "results", "gradients"
    of what every rank has, "row gradients" of the same, "table gradients" where a table of IDs is used whole."""
    step_s: float
    evaluation_s: float


def probe(config: RunConfig, size: Size, threads: int) -> Probe:
    """Build the run of `config` on made-up data of a size, take some steps, and return what was measured.

    It runs in a new process, so that what this one holds is not counted. Raises MmfastError as building a run does.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_probe, config.model_dump(mode="json"), size, threads).result()


def _probe(raw: dict[str, Any], size: Size, threads: int) -> Probe:
    torch.set_num_threads(threads)
    keep_freed_memory()
    config = build_config(raw)
    device = resolve_device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        features = {
            name: random_features(Path(folder) / f"{name}.npy", size.items, width)
            for name, width in size.features.items()
        }
        dataset = power_law_dataset(size.users, size.items, size.interactions, features)
        with PeakMemory(device) as start:
            run = build_training(config, dataset, Path(folder), device)
        with PeakMemory(device) as train:
            run.start_epoch(0)
            batches = _batches(run)
            steps = [_step_seconds(run, batch) for batch in islice(batches, WARM + TIMED)][WARM:]
            traffic = _traffic(run, next(batches))
            started = time.perf_counter()
            run.update_best(0, evaluate(run.framework.model, dataset, "valid", config.evaluate).metrics)
            evaluation = time.perf_counter() - started
        tables = tuple(tuple(table.parameter.shape) for table in id_tables(run))
        step = statistics.quantiles(steps, n=4)[0]  # that of an undisturbed machine, mostly
        return Probe(size, start.bytes, train.bytes, tables, graph_bytes(run), traffic, step, evaluation)


def _batches(run: Training) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from run.sampler.epoch(epoch)
        epoch += 1


def _step_seconds(run: Training, batch: Batch) -> float:
    started = time.perf_counter()
    run.step(batch)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter() - started


def id_tables(run: Training) -> list[RowTable]:
    """Return the tables that a plan may divide."""
    return [part for part in run.framework.modules() if type(part) is EmbeddingTable]


def graph_bytes(run: Training) -> int:
    """Return the bytes of the graphs whose rows the plan "row" divides."""
    graphs = divisible_graphs(run.framework) if run.framework.model.over_ranks == "rows" else []
    buffers = {id(buffer): buffer for _, _, graph in graphs for buffer in graph.buffers()}
    return sum(buffer.numel() * buffer.element_size() for buffer in buffers.values())


def _traffic(run: Training, batch: Batch) -> dict[str, int]:
    tables = [table.parameter for table in id_tables(run)]
    seen = Exchanged({table.data_ptr() for table in tables})
    run.optimizer.zero_grad(set_to_none=True)
    with seen:
        run.framework.backward(batch.to(run.device), run.framework.loss)
    own = {id(table) for table in tables}
    for parameter in run.framework.parameters():
        grad, of_table = parameter.grad, id(parameter) in own
        if grad is not None and not grad.is_sparse:
            seen.bytes["table gradients" if of_table else "gradients"] += grad.numel() * grad.element_size()
        elif grad is not None and not of_table:
            grad = grad.coalesce()
            seen.bytes["row gradients"] += grad.values().numel() * 4 + grad.indices().numel() * 8
    run.optimizer.zero_grad(set_to_none=True)
    return seen.bytes


class Exchanged(TorchDispatchMode):
    """Counts, over a step's forward pass, the bytes of rows looked up in tables and of tables that layers multiply."""

    def __init__(self, tables: set[int]) -> None:
        """tables: the addresses of the tables of IDs."""
        super().__init__()
        self.tables = tables
        self.bytes = dict.fromkeys(KINDS, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Count a call, and make it."""
        name = func._schema.name
        if name == "aten::embedding" and args[0].data_ptr() in self.tables:
            self.bytes["rows"] += args[1].numel() * (4 * args[0].shape[1] + 8)
        elif name in ("mmfast::propagate", "mmfast::propagate_rows") and _fixed(args):
            table, layers = args[8], args[9] if name == "mmfast::propagate" else args[10]
            self.bytes["layers"] += layers * table.numel() * table.element_size()
            self.bytes["results"] += table.numel() * table.element_size()
        return func(*args, **(kwargs or {}))


def _fixed(graph: tuple) -> bool:
    """Whether the operator of a call is square and has no edge values with a gradient."""
    ptr, values, table = graph[0], graph[2], graph[8]
    return ptr.numel() - 1 == table.shape[0] and (values is None or not values.requires_grad)
