"""Shared pieces of the benchmarks: graphs of the data sets' shapes, time, memory, the stream limit, output."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from _origin import json_line

from mmfast.graph import Graph, user_item_graph


class Shape(NamedTuple):
    """Size of a data set's training part."""

    num_users: int
    num_items: int
    num_edges: int

    @property
    def num_nodes(self) -> int:
        """Users and items together."""
        return self.num_users + self.num_items


shapes = {
    "tiny": Shape(400, 300, 4_000),  # to try a script
    "baby": Shape(19_445, 7_050, 119_674),
    "sports": Shape(35_598, 18_357, 218_409),
    "elec": Shape(192_403, 63_001, 1_201_716),
    "elec10": Shape(1_924_030, 630_010, 12_017_160),
}


def power_law_edges(shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct (user, item) pairs, sorted, with popular items and busy users, int64 [num_edges] each."""
    rng = np.random.default_rng(seed)

    def endpoints(count: int, exponent: float, size: int) -> np.ndarray:
        weight = (np.arange(count) + 10.0) ** -exponent
        names = rng.permutation(count)  # popular ids lie anywhere, as in real data
        return names[np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(size)).clip(max=count - 1)]

    size = int(shape.num_edges * 1.5)
    users, items = endpoints(shape.num_users, 0.45, size), endpoints(shape.num_items, 0.75, size)
    pairs = np.unique(users * shape.num_items + items)
    pairs = np.sort(rng.choice(pairs, shape.num_edges, replace=False))
    return pairs // shape.num_items, pairs % shape.num_items


def power_law_graph(shape: Shape, device: str = "cpu", seed: int = 0) -> Graph:
    """Return G-SYM of a power-law graph."""
    return user_item_graph(*power_law_edges(shape, seed), shape.num_users, shape.num_items).to(device)


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_of(fn: Callable[[], object], clock: str = "wall") -> float:
    """Return the seconds of one call of fn; clock="cpu" counts those that this process computed, on a busy machine."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    _synchronise()
    start = now()
    fn()
    _synchronise()
    return now() - start


def median_and_spread(seconds: list[float]) -> tuple[float, float]:
    """Return (median, interquartile range)."""
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return middle, high - low


def peak_bytes(fn: Callable[[], object], device: str = "cpu") -> int:
    """Return the memory that one call of fn adds at its peak, in bytes (on CPU: resident pages, Linux)."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fn()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # else freed pages that are kept would be used again, uncounted
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the high-water mark back to the present size
    before = _resident("VmRSS")
    fn()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024


def stream_bandwidth(device: str = "cpu", num_bytes: int = 1 << 28, clock: str = "wall") -> float:
    """Return the bytes per second of a = b + 2 c over three tables of `num_bytes`, the best of 7, reads and writes."""
    a, b, c = (torch.ones(num_bytes // 4, device=device) for _ in range(3))
    return 3 * num_bytes / min(seconds_of(lambda: torch.add(b, c, alpha=2, out=a), clock) for _ in range(7))


def measure(
    bench: str, case: str, kind: str, fn: Callable[[], object], others: dict[str, Callable[[], object]], **facts: object
) -> dict:
    """Return one case: fn's time and peak memory, against every other way to do the same, in alternation.

    facts: device, least_bytes (what must be moved), least_flops, limit (bytes per second), repeat, bounds (name -> the
    seconds that a limit allows, given as one more ratio), clock.
    """
    clock = str(facts.get("clock", "wall"))
    device, repeat = str(facts.get("device", "cpu")), int(facts.get("repeat", 15))
    runs: dict[str, list[float]] = {name: [] for name in others}
    seconds = []
    for other in (fn, *others.values()):
        other()
    for number in range(repeat):
        # Twice, the first not counted: what ran before has left its own tables in the caches.
        for other, times in ((fn, seconds), *((others[name], runs[name]) for name in others if number % 3 == 0)):
            other()
            times.append(seconds_of(other, clock))
    median, spread = median_and_spread(seconds)
    slower = {name: statistics.median(times) for name, times in runs.items()} | dict(facts.get("bounds", {}))
    least_bytes = int(facts.get("least_bytes", 0))
    return {
        "bench": bench,
        "case": case,
        "pass": kind,
        "device": device,
        "threads": torch.get_num_threads(),
        "median_s": median,
        "spread_s": spread,
        "peak_bytes": peak_bytes(fn, device),
        "least_bytes": least_bytes,
        "least_flops": int(facts.get("least_flops", 0)),
        "limit_fraction": least_bytes / float(facts["limit"]) / median if "limit" in facts else None,
        "ratios": {name: seconds / median for name, seconds in slower.items()},
    }


def emit(case: dict, as_json: bool) -> None:
    """Print one case, as a JSON object or as a line for people."""
    if as_json:
        print(json_line(case), flush=True)
        return
    ratios = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in case["ratios"].items())
    limit = "" if case["limit_fraction"] is None else f", {case['limit_fraction']:.0%} of the limit"
    print(
        f"{case['bench']} {case['case']} {case['pass']} ({case['device']}, {case['threads']} threads): "
        f"{case['median_s'] * 1e3:.3f} ms +- {case['spread_s'] * 1e3:.3f}, peak {case['peak_bytes'] / 2**20:.1f} MiB, "
        f"least {case['least_bytes'] / 2**20:.1f} MiB{limit}; {ratios}",
        flush=True,
    )
