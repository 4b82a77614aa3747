"""From small probes to the whole: memory of a rank, bytes exchanged and seconds of a step under every plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmfast.errors import MmfastError
from mmfast.planning.probe import Probe, Size

PLANS = ("data", "row", "table", "column")
GROWING = ("layers", "results", "gradients", "table gradients")
"""What grows with the data set; the rows of a batch do not, beyond the size of a probe."""


@dataclass(frozen=True)
class Ranks:
    """The processes to plan for."""

    count: int
    bandwidth: float
    """Bytes a second that a rank receives while it sends as many."""
    latency: float
    """Seconds of an exchange beside its bytes."""
    speed: float = 1.0
    """How many times as fast as the machine of the probes each rank computes."""


@dataclass(frozen=True)
class Estimate:
    """What one rank needs under a plan."""

    plan: str
    start_bytes: int
    train_bytes: int
    exchanged: dict[str, float]
    """Bytes that a rank receives in a step, by what they are."""
    compute_s: float
    network_s: float

    @property
    def peak_bytes(self) -> int:
        """The most memory at any time."""
        return max(self.start_bytes, self.train_bytes)

    @property
    def step_s(self) -> float:
        """Seconds of a step; exchanges wait for what is computed."""
        return self.compute_s + self.network_s


@dataclass(frozen=True)
class Whole:
    """One process at full size: a line through the two largest probes, read there."""

    probe: Probe
    fixed_step_s: float
    """The part of a step that is of its batch alone."""


def draw_out(probes: Sequence[Probe], size: Size) -> Whole:
    """Return what one process would need at `size`, from two probes or more of parts of it, ascending.

    Raises MmfastError where the probes are of one size.
    """
    first, last = probes[-2:]
    span = last.size.interactions - first.size.interactions
    if span <= 0:
        raise MmfastError("plan: the probes are of one size; choose a larger --probe or a larger data set")
    reach = (size.interactions - last.size.interactions) / span

    def line(a: float, b: float) -> float:
        return b + max(b - a, 0.0) * reach

    small = first.size
    rows = {small.users + small.items: size.users + size.items, small.items: size.items, small.users: size.users}
    traffic = dict(last.traffic)
    for kind in GROWING:
        traffic[kind] = round(line(first.traffic[kind], last.traffic[kind]))
    grown = max(last.step_s - first.step_s, 0.0) * size.interactions / span
    step = line(first.step_s, last.step_s)
    whole = Probe(
        size,
        round(line(first.start_bytes, last.start_bytes)),
        round(line(first.train_bytes, last.train_bytes)),
        tuple((rows.get(a[0], round(line(a[0], b[0]))), b[1]) for a, b in zip(first.tables, last.tables, strict=True)),
        round(line(first.graph_bytes, last.graph_bytes)),
        traffic,
        step,
        last.evaluation_s * (size.users * size.items) / (last.size.users * last.size.items),
    )
    return Whole(whole, max(step - grown, 0.0))


def estimates(whole: Whole, ranks: Ranks, divides_graphs: bool) -> list[Estimate]:
    """Return one estimate a plan, or a single one, "one process", for one rank.

    divides_graphs: whether the model's graphs are divided under "row" (`over_ranks = "rows"`).
    """
    probe = whole.probe
    if ranks.count == 1:
        return [Estimate("one process", probe.start_bytes, probe.train_bytes, {}, probe.step_s / ranks.speed, 0.0)]
    return [_estimate(plan, whole, ranks, divides_graphs) for plan in PLANS]


def _estimate(plan: str, whole: Whole, ranks: Ranks, divides_graphs: bool) -> Estimate:
    probe, count = whole.probe, ranks.count
    taken, whole_tables = (count - 1) / count, probe.traffic["table gradients"] > 0
    sharded, divided = plan != "data", plan == "row" and divides_graphs
    tables = 4 * sum(rows * width for rows, width in probe.tables)
    memory = probe.train_bytes
    if sharded:  # the values, two moments and, of a table used whole, its gradient; which is then gathered, with one
        memory += round(tables * (2 * whole_tables - (3 + whole_tables) * taken))
    if divided:
        memory -= round(probe.graph_bytes * taken)
    # Rows and graphs are divided; of what is left, a step's own part is of the batch, and the batch is divided.
    grown = probe.step_s - whole.fixed_step_s
    divided_time = divided or (plan == "row" and not whole_tables)
    compute = (whole.fixed_step_s / count + grown / (count if divided_time else 1)) / ranks.speed
    exchanged = {kind: size for kind, size in _exchanged(plan, probe, count, divided).items() if size}
    network = sum(exchanged.values()) / ranks.bandwidth + len(exchanged) * ranks.latency
    return Estimate(plan, probe.start_bytes, memory, exchanged, compute, network)


def _exchanged(plan: str, probe: Probe, count: int, divided: bool) -> dict[str, float]:
    """Return the bytes that a rank receives in a step: all-reduce 2 f, all-gather and reduce-scatter f of the whole."""
    seen, taken = probe.traffic, (count - 1) / count
    if plan == "data":
        return {
            "gradients": 2 * taken * (seen["gradients"] + seen["table gradients"]),
            "rows": taken * (seen["row gradients"] + seen["rows"]),
        }
    return {
        "gradients": 2 * taken * seen["gradients"],
        "rows": taken * (seen["row gradients"] + 2 * seen["rows"] / count),
        "whole tables": 2 * taken * seen["table gradients"],
        # A layer is gathered in both directions; then the ranks' results, and the gradients back to them.
        "layers": taken * (2 * seen["layers"] + seen["results"]) if divided else 0.0,
    }
