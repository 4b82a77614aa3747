"""Processes that share a stage's work: they end with the one that started them, and losing one is a sentence."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any

from mmfast.errors import MmfastError


@contextmanager
def worker_pool(processes: int, start: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that have each called start(*arguments).

    Raises MmfastError when one of them ends before its time, or cannot start.

    >>> with worker_pool(2, prepare) as pool: list(pool.map(compute, jobs))  # doctest: +SKIP
    """
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), _start, (start, arguments)) as pool:
            yield pool
    except BrokenProcessPool:
        raise MmfastError(
            "a worker process could not start, which is told above, or was ended from outside, perhaps for lack of "
            "memory; what was finished is kept: run again, with fewer processes"
        ) from None


def _start(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent has: workers that only wait for work would outlive a killed one."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
