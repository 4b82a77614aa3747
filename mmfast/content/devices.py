"""The device that a pretrained model runs on, and one sentence when the model does not fit into its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmfast.device import resolve_device
from mmfast.errors import MmfastError


def pick_device(name: str) -> torch.device:
    """Return the device called auto, cpu, cuda or cuda:N; auto is CUDA where torch sees a GPU.

    Training's auto also asks for mmfast's own CUDA kernels; pretrained models need none of them. Raises MmfastError for
    a name that is none of these or a GPU that is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    return resolve_device("cuda" if name == "auto" and torch.cuda.is_available() else name)


@contextmanager
def enough_memory(purpose: str, *instead: str) -> Iterator[None]:
    """Turn the error of a device whose memory is full into one sentence.

    purpose: what needs the memory. instead: what to choose, besides a smaller model and the CPU.

    >>> with enough_memory("SAM vit_h", "a smaller points_per_batch"):
    ...     pass
    """
    try:
        yield
    except torch.OutOfMemoryError:
        choices = ", ".join([*instead, "a smaller model"])
        raise MmfastError(f"{purpose}: the device has too little memory; choose {choices} or device=cpu") from None
