"""How much memory training will take, told before it starts; a run that cannot fit is refused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.frameworks.base import Framework

PROGRAM_BYTES = 256 << 20
"""Private memory of Python, torch and this package before a data set is loaded: 230 to 260 MiB measured."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that training takes at its peak, by what they are for; a table that a file backs counts on a GPU alone."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All parts together, in bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """Return "about 1.2 GiB of memory (parameters 0.13, gradients 0.13, ...)"."""
        inside = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in self.parts.items())
        return f"about {self.total / 2**30:.1f} GiB of memory ({inside})"


def memory_need(framework: Framework, dataset: Dataset) -> MemoryNeed:
    """Estimate what training a model, inside its frameworks, takes: all that stays, and an allowance for a step.

    The allowance is `step_tables` of the model, measured, times a float table [U + I, D] for IDs and every modality.
    What a framework builds later (teachers, first stages) is not in it.

    Example: `check_memory(memory_need(framework, dataset), torch.device("cpu"))`
    """
    model = framework.model
    trainable = _bytes(p for p in framework.parameters() if p.requires_grad)
    device = next(framework.parameters()).device
    mapped = {table.__array_interface__["data"][0] for table in dataset.features.values() if _of_a_file(table)}
    buffers = [t for t in framework.buffers() if device.type != "cpu" or t.data_ptr() not in mapped]
    nodes, width = model.num_users + model.num_items, model.config.embedding_dim
    return MemoryNeed(
        {
            "program": PROGRAM_BYTES if device.type == "cpu" else 0,
            "parameters": _bytes(framework.parameters()),
            "gradients": trainable,
            "moments": 2 * trainable,
            "graphs and features": _bytes(buffers),
            "best model": _bytes(model.state_dict().values()) if device.type == "cpu" else 0,
            "a step": int(4 * nodes * width * (1 + len(model.modalities)) * model.step_tables),
        }
    )


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process may use on a device, those it holds included; None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    held, free = _kibibytes("/proc/self/status", "RssAnon"), _kibibytes("/proc/meminfo", "MemAvailable")
    if held is None or free is None:
        return None
    limits = [free, *_group_limit()]
    return min(limits) + held


def start_peak(device: torch.device) -> None:
    """Let `peak_memory` count from now on; where the system does not allow it, the count is of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or not permitted
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes in use since `start_peak`: allocated on a GPU, else resident; None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kibibytes("/proc/self/status", "VmHWM")


class PeakMemory:
    """The most memory of this process inside a `with` block, `bytes`: allocated on a GPU, else private to the process.

    Private pages are those that no file backs. Where the system does not tell, bytes is 0.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> PeakMemory:
        """Begin to watch."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._look()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, with the most that was seen."""
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, _kibibytes("/proc/self/status", "RssAnon") or 0)


def check_memory(need: MemoryNeed, device: torch.device) -> None:
    """Raise MmfastError when training needs more memory than there is."""
    free = free_memory(device)
    if free is not None and need.total > free:
        raise MmfastError(
            f"training needs {need}, but {free / 2**30:.1f} GiB are free on {device}; choose a smaller "
            "model.embedding_dim, fewer modalities or model.train_features=false where the model has it, free some "
            "memory, or set check_memory=false to try all the same"
        )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the tensors, storage that several share counted once."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def _of_a_file(array: np.ndarray | None) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = array.base if isinstance(array.base, np.ndarray) else None
    return array is not None


def _kibibytes(path: str, field: str) -> int | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _group_limit() -> list[int]:
    """Return what the control group still allows in bytes, if it has a limit: a container may be given less."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text(encoding="utf-8") for name in ("memory.max", "memory.stat"))
        return [int(limit) - int(dict(line.split() for line in used.splitlines())["anon"])]
    except (OSError, ValueError, KeyError):  # no group of version 2, or a limit of "max"
        return []
