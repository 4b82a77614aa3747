"""The run's record: one JSON object per epoch in log.jsonl, and TensorBoard events beside it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
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


class AppendedFile:
    """A file that grows by whole records; what a full disk refused of one is taken back.

    Opened at `position` bytes, what lies beyond is dropped; a shorter file goes on where it ends. Raises MmfastError
    when the file cannot be written.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            # Without a buffer: bytes that a full disk refused must not come back when the file is closed.
            self._file = path.open("ab", buffering=0)
            self._file.truncate(min(position, self._file.seek(0, os.SEEK_END)))
            self._file.seek(0, os.SEEK_END)

    def append(self, record: bytes) -> None:
        """Write a record at once, or none of it."""
        with disk_errors(self.path):
            start = self._file.tell()
            try:
                while record:
                    record = record[self._file.write(record) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(start)
                raise

    def sync(self) -> int:
        """Wait until every record is on disk and return the length of the file in bytes."""
        with disk_errors(self.path):
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        with disk_errors(self.path):
            self._file.close()


class Events:
    """TensorBoard's event file of one process; TensorBoard's own writer leaves its thread to die on a full disk."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        # TensorBoard reads the files of a folder whose names hold "tfevents", in the order of their names.
        self._file = AppendedFile(folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}")
        self._head = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        if first_epoch:
            # Hides the events of epochs that an interrupted run logged and this one repeats.
            start = SessionLog(status=SessionLog.START)
            self._head.append(Event(wall_time=time.time(), step=first_epoch, session_log=start))

    def add(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars of an epoch by their tags."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        record = io.BytesIO()
        for event in [*self._head, Event(wall_time=time.time(), step=epoch, summary=Summary(value=values))]:
            RecordWriter(record).write(event.SerializeToString())
        self._file.append(record.getvalue())
        self._head = []

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunLog:
    """Appends rows to log.jsonl; opened at `position` bytes, what an interrupted run wrote beyond it is dropped.

    Raises MmfastError when the disk is full or the folder cannot be written; no half row is left.
    """

    def __init__(self, folder: Path, position: int = 0, first_epoch: int = 0, tensorboard: bool = False) -> None:
        with contextlib.ExitStack() as opened:
            self._rows = AppendedFile(folder / "log.jsonl", position)
            opened.callback(self._rows.close)
            self._events = _events(folder / "tb", first_epoch) if tensorboard else None
            if self._events:
                opened.callback(self._events.close)
            self._opened = opened.pop_all()

    def sync(self) -> int:
        """Wait until every row is on disk and return their length in bytes: where a resumed run continues."""
        return self._rows.sync()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one epoch's row, {"epoch": ..., "lr": ..., "loss": {...}, "valid": {...}, ...}, at once."""
        self._rows.append(json.dumps(row).encode() + b"\n")
        if self._events:
            groups = {group: row.get(group, {}) for group in ("loss", "measures", "valid")}
            scalars = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
            self._events.add(row["epoch"], {**scalars, "lr": row["lr"]})

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()


class NoLog:
    """The log of a rank that writes none."""

    def sync(self) -> int:
        """Return the length of nothing."""
        return 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Leave a row to the first rank."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log.jsonl, oldest first."""
    with (folder / "log.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _events(folder: Path, first_epoch: int) -> Events | None:
    try:
        return Events(folder, first_epoch)
    except ImportError:
        warnings.warn(NO_TENSORBOARD, stacklevel=3)
        return None
