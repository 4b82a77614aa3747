"""The device a run uses, from its name in the config, and the number of CPU threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from mmfast.errors import MmfastError


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device called auto, cpu, cuda or cuda:N; auto is CUDA when this build has CUDA kernels.

    Raises MmfastError for a name that is none of these or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and has_cuda_kernels() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise MmfastError(f"device: got '{name}'; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            why = "this torch is built without CUDA" if not torch.version.cuda else f"torch sees {count} GPUs"
            raise MmfastError(f"device: '{name}' was asked but {why}; use device=cpu, or see `mmfast doctor`")
    return device


def has_cuda_kernels() -> bool:
    """Return whether the native extension was built with CUDA kernels that can be called."""
    from mmfast.ops._backend import _C

    return _C is not None and _C.build_info()["cuda"] == "run"


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run the block with `count` CPU threads (None: leave torch's choice), then restore the former number."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process reuse large freed blocks: a training step asks for the same tables again and again.

    Without it the C library returns them to the system, and every step pays their page faults anew (half the time of a
    LightGCN epoch on Baby). The process then keeps its peak, until `release_freed_memory`.
    """
    from mmfast.ops._backend import _C

    if _C is not None:
        _C.keep_freed_memory()


def release_freed_memory() -> None:
    """Give back to the system what `keep_freed_memory` has kept so far."""
    from mmfast.ops._backend import _C

    if _C is not None:
        _C.release_freed_memory()
