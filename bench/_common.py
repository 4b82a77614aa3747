"""Shared pieces of the benchmarks: graphs of the data sets' shapes, time, memory, the stream limit, output."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _origin import json_line
from torch.utils._python_dispatch import TorchDispatchMode

from mmfast.device import release_freed_memory
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
    release_freed_memory()  # else freed pages that are kept would be used again, uncounted
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the high-water mark back to the present size
    before = _resident("VmRSS")
    fn()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024


_seen: dict[tuple[str, str], dict[str, float]] = {}  # the best so far of this process, by device and clock


def bandwidths(device: str = "cpu", num_bytes: int = 1 << 28, clock: str = "wall", repeat: int = 7) -> dict[str, float]:
    """Return the bytes per second that three calls over tables of `num_bytes` reach, each the best of `repeat`.

    "triad" is a = b + 2 c, three tables; "update" a = a + 2 b, three; "read" sum(a), one. Counted are the bytes that a
    call asks for: nothing for the lines of `a` that a CPU reads in a triad only because they will be overwritten. An
    update has no such lines, so that three tables are all that it moves, and shows up to 4/3 of the triad's rate. What
    earlier calls of the process reached counts too: a shared machine has slow moments.
    """
    a, b, c = (torch.ones(num_bytes // 4, device=device) for _ in range(3))
    calls = {
        "triad": (3, lambda: torch.add(b, c, alpha=2, out=a)),
        "update": (3, lambda: a.add_(b, alpha=2)),
        "read": (1, lambda: a.sum()),
    }
    best = _seen.setdefault((device, clock), dict.fromkeys(calls, 0.0))
    for name, (tables, fn) in calls.items():
        best[name] = max(best[name], tables * num_bytes / min(seconds_of(fn, clock) for _ in range(repeat)))
    return dict(best)


def stream_bandwidth(device: str = "cpu", num_bytes: int = 1 << 28, clock: str = "wall", repeat: int = 7) -> float:
    """Return the memory's limit in bytes per second: the highest of `bandwidths`."""
    return max(bandwidths(device, num_bytes, clock, repeat).values())


class _Kernels(TorchDispatchMode):
    """The ops of mmfast that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "mmfast":
            self.names.add(func.name().split("::")[1].split(".")[0])
        return func(*args, **(kwargs or {}))


def _timings(ways: dict[str, Callable[[], object]], repeat: int, budget: float, clock: str) -> dict[str, list[float]]:
    """Return the seconds of the calls of every way, in alternation; the first way is called three times as often.

    After `budget` seconds no further round begins. A way whose first call takes a third of it is not called again.
    """
    first = {name: seconds_of(way, clock) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    ours, started = next(iter(ways)), time.perf_counter()
    for number in range(repeat):
        for name, way in ways.items():
            if name != ours and (number % 3 or first[name] > budget / 3):
                continue
            if first[name] < budget / 60:
                way()  # not counted: what ran before has left its own tables in the caches
            times[name].append(seconds_of(way, clock))
        if time.perf_counter() - started > budget:
            break
    return {name: seconds or [first[name]] for name, seconds in times.items()}


def measure(
    bench: str, case: str, kind: str, fn: Callable[[], object], others: dict[str, Callable[[], object]], **facts: object
) -> dict:
    """Return one case: fn's time, peak memory and kernels of mmfast, against every other way to do the same.

    facts: device, least_bytes (what must be moved), least_flops, limit (bytes per second), repeat, bounds (name -> the
    seconds that a limit allows, given as one more ratio), clock, budget (seconds; infinite where ranks must agree).
    """
    device, repeat = str(facts.get("device", "cpu")), int(facts.get("repeat", 15))
    budget, clock = float(facts.get("budget", 60)), str(facts.get("clock", "wall"))
    times = _timings({"": fn, **others}, repeat, budget, clock)
    seconds = times.pop("")
    median, spread = median_and_spread(seconds)
    slower = {name: statistics.median(each) for name, each in times.items()} | dict(facts.get("bounds", {}))
    least_bytes, limit = int(facts.get("least_bytes", 0)), None
    if "limit" in facts:
        limit = float(facts["limit"])
        if math.isfinite(budget):  # once more beside the case; ranks would not measure it at the same time
            limit = max(limit, stream_bandwidth(device, 1 << 27, clock, repeat=3))
    with _Kernels() as kernels:
        torch.zeros(1).add_(1)  # the first call under a mode imports modules
        peak = peak_bytes(fn, device)
    return {
        "bench": bench,
        "case": case,
        "pass": kind,
        "device": device,
        "threads": torch.get_num_threads(),
        "median_s": median,
        "spread_s": spread,
        "calls": len(seconds),
        "kernels": sorted(kernels.names),
        "peak_bytes": peak,
        "least_bytes": least_bytes,
        "least_flops": int(facts.get("least_flops", 0)),
        "limit_fraction": least_bytes / limit / median if limit else None,
        "ratios": {name: seconds / median for name, seconds in slower.items()},
    }


def leave_out(what: str, why: str) -> None:
    """Say which case or alternative is not measured, and why."""
    print(f"{what} is left out: {why}", file=sys.stderr, flush=True)


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
