"""The run's record: one JSON object per epoch in log.jsonl, and TensorBoard events beside it."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mmfast.checkpoint import disk_errors

NO_TENSORBOARD = (
    "TensorBoard is not installed, so no events are written: "
    "install it with `pip install tensorboard`, or set tensorboard=false"
)


class RunLog:
    """Appends rows to log.jsonl; opened at `position` bytes, what an interrupted run wrote beyond it is dropped.

    Raises MmfastError when the disk is full or the folder cannot be written; no half row is left.
    """

    def __init__(self, folder: Path, position: int = 0, first_epoch: int = 0, tensorboard: bool = False) -> None:
        self._path = folder / "log.jsonl"
        with disk_errors(self._path):
            # Without a buffer: bytes that a full disk refused must not come back when the file is closed.
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(position)
            self._file.seek(0, os.SEEK_END)
        self._events_folder = folder / "tb"
        with disk_errors(self._events_folder):
            self._events = _event_writer(self._events_folder, first_epoch) if tensorboard else None

    def sync(self) -> int:
        """Wait until every row is on disk and return their length in bytes: where a resumed run continues."""
        with disk_errors(self._path):
            os.fsync(self._file.fileno())
            return self._file.tell()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one epoch's row, {"epoch": ..., "lr": ..., "loss": {...}, "valid": {...}, ...}, at once."""
        self._append(json.dumps(row).encode() + b"\n")
        if self._events:
            with disk_errors(self._events_folder):
                for group, values in (("loss", row["loss"]), ("valid", row.get("valid", {})), ("", {"lr": row["lr"]})):
                    for name, value in values.items():
                        self._events.add_scalar(f"{group}/{name}" if group else name, value, row["epoch"])

    def _append(self, line: bytes) -> None:
        with disk_errors(self._path):
            start = self._file.tell()
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(start)
                raise

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if self._events:
            with disk_errors(self._events_folder):
                self._events.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log.jsonl, oldest first."""
    with (folder / "log.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _event_writer(folder: Path, first_epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn(NO_TENSORBOARD, stacklevel=2)
        return None
    # purge_step hides the events of epochs that an interrupted run logged and a resumed run repeats.
    return SummaryWriter(str(folder), purge_step=first_epoch or None)
