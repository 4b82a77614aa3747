"""The ranks of a job: the processes that train one model together, and what the first of them does for all."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mmfast.errors import MmfastError, ToldByFirst

T = TypeVar("T")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells every process
KEEPERS = ("torch.distributed.nn.functional", "torch.distributed.optim", "torch.distributed.fsdp")
"""Modules whose functions, where they are imported after a group was joined, keep it as a default for ever."""
LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "timed out", "remote process")


def world_size() -> int:
    """Return the number of ranks, 1 where this process trains alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this rank writes files and talks to the user."""
    return rank() == 0


def join_ranks(device: torch.device, timeout: float) -> torch.device:
    """Join the processes that torchrun launched, until this one ends; return the device of this rank.

    Alone, or joined before, only the device is found: GPU number LOCAL_RANK where the config names none. timeout:
    seconds after which a rank that waits for another gives up.

    Example: `torchrun --nproc-per-node 4 -m mmfast.train configs/baby_lightgcn.yaml`
    """
    launched = all(name in os.environ for name in LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1
    if not launched and not dist.is_initialized():
        return device
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend, limit = "nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout)
        store, number, ranks = next(dist.rendezvous("env://", timeout=limit))
        part = dist.PrefixStore(unused_part(store, number, ranks, limit), store)
        join_group(part, number, ranks, backend, limit)
    return device


def join_group(
    store: dist.Store, number: int, ranks: int, backend: str = "gloo", limit: timedelta = dist.default_pg_timeout
) -> None:
    """Join the ranks that meet in a store, until this process ends or leave_ranks()."""
    for name in KEEPERS:
        importlib.import_module(name)
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=limit)
    atexit.register(_leave)


def unused_part(store: dist.Store, number: int, ranks: int, limit: timedelta) -> str:
    """Return a name that the first rank has made and all ranks of this start now know, to keep their keys apart.

    torchrun keeps one store over its restarts, where a rank may find the address of a process that is gone. So every
    other rank asks by a key of its own making, which no earlier start can have answered, and says that it has heard.
    """
    own = uuid.uuid4().hex
    if number:
        store.set(f"mmfast/asks/{number}", own)
        name = store.get(f"mmfast/answer/{own}").decode()
        store.set(f"mmfast/{name}/{number}", "heard")
        return name
    others, end = range(1, ranks), time.monotonic() + limit.total_seconds()
    while not store.check([f"mmfast/{own}/{other}" for other in others]):
        if time.monotonic() > end:
            raise MmfastError(f"not all of the {ranks} ranks have come within {limit.total_seconds():g} s")
        for other in others:
            if store.check([f"mmfast/asks/{other}"]):
                store.set(f"mmfast/answer/{store.get(f'mmfast/asks/{other}').decode()}", own)
        time.sleep(0.01)
    return own


# The names that newer releases of torch prefer come first.
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def leave_ranks() -> None:
    """Wait for all ranks and part, at the good end of a job: a rank that goes early breaks what others still read."""
    if world_size() > 1:
        dist.barrier()
        _leave()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # what still holds the group keeps its threads, which can abort a process that is about to end


def restarted() -> bool:
    """Whether torchrun started this process again after one of the job's was lost (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def may_restart() -> bool:
    """Whether torchrun will start this process again when one of the job's is lost (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def by_first(act: Callable[[], T]) -> T:
    """Return act(), done by the first rank alone: every rank waits for it and has its result, or its MmfastError.

    Every rank must call it; the result must be small and picklable.

    Example: `folder = by_first(lambda: new_run_folder(config))`
    """
    if world_size() == 1:
        return act()
    result = None
    with first_ahead():
        if is_first():
            result = act()
    return _shared(result)


@contextlib.contextmanager
def first_ahead() -> Iterator[None]:
    """Let the first rank run the block before the others do, which then find what it has put into the caches."""
    if world_size() == 1:
        yield
    elif is_first():
        failure = None
        try:
            yield
        except BaseException as error:
            failure = str(error) or type(error).__name__
            raise
        finally:
            _shared(failure)
    else:
        if failure := _shared(None):
            raise ToldByFirst(failure)
        yield


def _shared(value: Any) -> Any:
    """Return the first rank's value."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def losses_told() -> Iterator[None]:
    """Turn the error of a connection that breaks inside, because another rank is gone, into an MmfastError."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if world_size() == 1 or not any(sign in text.lower() for sign in LOST):
            raise
        raise MmfastError(
            f"rank {rank()} of {world_size()} has lost another rank: that process was killed, or its machine or the "
            "network failed, so the job ends. Start it again with --resume RUN, on any number of ranks, and it goes on "
            f"from the last checkpoint ({text.splitlines()[0]})"
        ) from error


def share_of(things: Sequence[T]) -> Sequence[T]:
    """Return this rank's share of a list that all ranks have: the lists of the ranks, joined, are the whole one."""
    ranks, number = world_size(), rank()
    return things[len(things) * number // ranks : len(things) * (number + 1) // ranks]


def all_rows(rows: torch.Tensor, sizes: Sequence[int] | None = None) -> torch.Tensor:
    """Return the rows [R, ...] of all ranks, in the order of ranks; R may differ, also be 0, and every rank calls it.

    sizes: the R of every rank, asked for unless given.

    Example: `hits = all_rows(own_hits)`
    """
    if world_size() == 1:
        return rows
    sizes = gathered(torch.tensor([len(rows)], device=rows.device))[:, 0].tolist() if sizes is None else sizes
    return torch.cat([part[:size] for part, size in zip(padded_rows(rows, max(sizes)), sizes, strict=True)])


def padded_rows(rows: torch.Tensor, length: int) -> torch.Tensor:
    """Return the rows [R, ...] of all ranks, filled up to `length` with zeros, [world, length, ...]."""
    if len(rows) == length:
        return gathered(rows)
    mine = rows.new_zeros(length, *rows.shape[1:])
    mine[: len(rows)] = rows
    return gathered(mine)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all ranks, of one shape and without gradients, as [world, ...]."""
    out = tensor.new_empty(world_size(), *tensor.shape)
    _gather(out.view(-1), tensor.contiguous().view(-1))
    return out


def sum_of_own(rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
    """Return the sum over ranks of rows [N, ...], those between this rank's two of `bounds` alone, [R, ...]."""
    blocks = [rows[a:b] for a, b in itertools.pairwise(bounds)]
    sent = rows.new_zeros(len(blocks), max(len(block) for block in blocks), *rows.shape[1:])
    for place, block in zip(sent, blocks, strict=True):
        place[: len(block)] = block
    own = torch.empty_like(sent[0])
    _reduce_scatter(own.view(-1), sent.view(-1))
    return own[: len(blocks[rank()])]
