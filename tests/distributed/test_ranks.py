"""Ranks of one start find one another, whatever an earlier start left in the store that torchrun keeps."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from mmfast.errors import MmfastError
from mmfast.ranks import unused_part

LIMIT = timedelta(seconds=20)


def start_of(store: dist.Store, delays: list[float]) -> list[str]:
    """Return the names that the ranks of one start agree on, each of which comes after its delay."""

    def rank(number: int) -> str:
        time.sleep(delays[number])
        return unused_part(store, number, len(delays), LIMIT)

    with ThreadPoolExecutor(len(delays)) as pool:
        return list(pool.map(rank, range(len(delays))))


@pytest.mark.parametrize("late", range(3))
def test_every_start_of_a_job_has_keys_of_its_own(late):
    store = dist.HashStore()
    delays = [0.2 * (number == late) for number in range(3)]
    names = [set(start_of(store, delays)) for _ in range(4)]
    assert all(len(one) == 1 for one in names) and len(set.union(*names)) == 4


def test_a_rank_that_was_lost_before_it_heard_does_not_lead_the_next_start_astray():
    store = dist.HashStore()
    store.set("mmfast/asks/1", "gone")
    store.set("mmfast/answer/gone", "old")
    store.set("mmfast/old/1", "heard")
    first, second = start_of(store, [0.0, 0.2])
    assert first == second != "old"


def test_the_first_rank_does_not_wait_for_ever():
    with pytest.raises(MmfastError, match="not all of the 2 ranks have come within"):
        unused_part(dist.HashStore(), 0, 2, timedelta(seconds=0.05))
