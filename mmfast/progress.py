"""What a person sees while a run trains: one bar per epoch on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

REDRAW_SECONDS = 0.1


class Progress:
    """Shows batches, loss, the best validation value and the time left; `show=False` is silent.

    Reading a loss waits for the device, so it happens at most every REDRAW_SECONDS.
    """

    def __init__(self, epochs: int, monitor: str, show: bool = True) -> None:
        self.epochs = epochs
        self.monitor = monitor
        self.show = show
        self.best: float | None = None
        self._bar = None
        self._task = None
        self._drawn = 0.0
        if show and sys.stderr.isatty():
            self._bar = _rich_bar()

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while the block runs, which may show one of its own."""
        if self._bar:
            self._bar.stop()
        yield
        if self._bar:
            self._bar.start()

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Begin the bar of an epoch."""
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            name = f"epoch {epoch + 1}/{self.epochs}"
            self._task = self._bar.add_task(name, total=steps, loss="", best=self._best_text())

    def due(self) -> bool:
        """Whether it is time to call `step` again."""
        return self._bar is not None and time.monotonic() - self._drawn >= REDRAW_SECONDS

    def step(self, done: int, loss: float) -> None:
        """Show that `done` batches of the epoch are finished."""
        self._drawn = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=done, loss=f"loss {loss:.4f}")

    def end_epoch(self, row: Mapping[str, Any], best: float, best_epoch: int) -> None:
        """Report a finished epoch by its log row; `best` and `best_epoch` (from 0) are those so far."""
        self.best = best if best_epoch >= 0 else None
        loss, value = sum(row["loss"].values()), row.get("valid", {}).get(self.monitor)
        parts = [f"epoch {row['epoch'] + 1}/{self.epochs}", f"loss {loss:.4f}"]
        if value is not None:
            mark = " *" if row["epoch"] == best_epoch else f" (best {best:.4f} at epoch {best_epoch + 1})"
            parts.append(f"{self.monitor} {value:.4f}{mark}")
        self.say("  ".join([*parts, f"{row['total_seconds']:.1f} s"]))

    def say(self, text: str) -> None:
        """Print one line to stderr, above the bar if there is one."""
        if not self.show:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _best_text(self) -> str:
        return "" if self.best is None else f"best {self.monitor} {self.best:.4f}"


def _rich_bar() -> object:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    loss, best = TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[best]}")
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), loss, best]
    return Bar(*columns, console=Console(stderr=True), transient=True)
