"""Data parallelism: every rank takes its part of each batch, and the ranks' gradients are averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from mmfast.errors import MmfastError
from mmfast.ops.split_batch import Split, split_over
from mmfast.ranks import all_rows, gathered, rank, world_size

if TYPE_CHECKING:
    from mmfast.config import RunConfig
    from mmfast.data.sampler import Batch

SMALL = 1 << 20
"""Numbers in a gradient up to which it travels together with others: a message of its own costs more than a copy."""


def check_over_ranks(config: RunConfig) -> None:
    """Raise MmfastError, where there are several ranks, for a model or a framework that they cannot train together."""
    from mmfast.registry import FRAMEWORKS, MODELS

    parts = [(MODELS, config.model.name), *((FRAMEWORKS, section.name) for section in config.framework)]
    for registry, name in parts if world_size() > 1 else ():
        if not registry.get(name).over_ranks:
            raise MmfastError(
                f"'{name}' is not made for several ranks; train it on one process, without torchrun, or, if it is your "
                "own, see over_ranks in docs/scaling.md"
            )


@contextlib.contextmanager
def split_batch(batch: Batch) -> Iterator[Batch]:
    """Give this rank's part of a batch; inside, losses are those of the whole batch.

    A batch of fewer entries than ranks is not divided: every rank has all of it.

    Example: `with split_batch(batch) as part: framework.step(part, optimizer)`
    """
    ranks = world_size()
    if ranks == 1 or batch.size < ranks:
        yield batch
        return
    split = Split(tuple(batch.size // ranks + (number < batch.size % ranks) for number in range(ranks)), rank())
    part = slice(split.first, split.first + split.size)
    negatives = None if batch.neg_items is None else batch.neg_items[part]
    with split_over(split):
        yield replace(batch, users=batch.users[part], pos_items=batch.pos_items[part], neg_items=negatives)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Put the mean over ranks in place of every gradient; every rank must have them for the same parameters.

    A row-sparse gradient then has the rows of all ranks, sorted. Blocks of sharded tables are left as they are.
    """
    shared = (parameter for parameter in parameters if not getattr(parameter, "of_one_rank", False))
    trained = [parameter for parameter in shared if parameter.grad is not None]
    dense = [parameter.grad for parameter in trained if not parameter.grad.is_sparse]
    large = [[grad] for grad in dense if grad.numel() > SMALL]
    small = [grad for grad in dense if grad.numel() <= SMALL]
    for group in [*large, *([g for g in small if g.dtype == dtype] for dtype in dict.fromkeys(g.dtype for g in small))]:
        _average(group)
    _average_rows([parameter for parameter in trained if parameter.grad.is_sparse])


def _average(grads: Sequence[torch.Tensor]) -> None:
    whole = grads[0] if len(grads) == 1 else torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(whole)
    whole /= world_size()
    if len(grads) > 1:
        for grad, mean in zip(grads, whole.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))


def _average_rows(parameters: Sequence[torch.nn.Parameter]) -> None:
    if not parameters:
        return
    counts = [parameter.grad._nnz() for parameter in parameters]
    counts = gathered(torch.tensor(counts, device=parameters[0].device)).t().tolist()
    for parameter, sizes in zip(parameters, counts, strict=True):
        grad = parameter.grad
        rows, values = all_rows(grad._indices()[0], sizes), all_rows(grad._values(), sizes)
        whole = torch.sparse_coo_tensor(rows[None], values / world_size(), grad.shape, check_invariants=False)
        parameter.grad = whole.coalesce()
