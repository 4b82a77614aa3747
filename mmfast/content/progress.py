"""What a person sees while content is computed: how much is done, how fast, and the time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

LINE_SECONDS = 10.0  # between lines where standard error is no terminal


class Meter:
    """Counts finished pieces of one stage; a bar on a terminal, a line every ten seconds elsewhere, or silent.

    Pieces that were there already are `add`ed as `cached`: they count as done, but not for the rate.

    >>> with Meter("encoding", total=2, unit="images", show=False) as meter:
    ...     meter.add(2)
    >>> meter.done
    2
    """

    def __init__(self, stage: str, total: int, unit: str, show: bool = True) -> None:
        self.stage, self.total, self.unit, self.show = stage, total, unit, show
        self.done = self.computed = 0
        self._started = self._told = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Meter:
        self._started = self._told = time.monotonic()
        if self.show and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(self.stage, total=self.total, rate="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if error is None and self.show:
            print(self.text(), file=sys.stderr, flush=True)

    def add(self, count: int = 1, cached: bool = False) -> None:
        """Count pieces as done; `cached` ones took no time."""
        self.done += count
        self.computed += 0 if cached else count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate:,.1f} {self.unit}/s")
        elif self.show and time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            print(self.text(), file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Computed pieces per second since the start."""
        return self.computed / max(time.monotonic() - self._started, 1e-9)

    def text(self) -> str:
        """Return the line of the present state, such as "encoding: 512 of 2,048 images, 96.0/s, 16 s left"."""
        parts = [f"{self.stage}: {self.done:,} of {self.total:,} {self.unit}"]
        if self.computed:
            parts.append(f"{self.rate:,.1f}/s")
        if self.done > self.computed:
            parts.append(f"{self.done - self.computed:,} were there")
        if self.computed and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / self.rate)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> duration(16.2), duration(200), duration(7500)
    ('16 s', '3 min 20 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
