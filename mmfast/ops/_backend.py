"""Which implementation of the ops runs: `native` (C++/CUDA through the dispatcher) or `reference` (plain PyTorch)."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mmfast.errors import MmfastError

try:
    from mmfast import _C  # registers the schemas and kernels with torch
except ImportError as error:
    _C = None
    LOAD_ERROR = str(error)
else:
    LOAD_ERROR = ""

BACKENDS = ("native", "reference")
_chosen: list[str] = []


def backend() -> str:
    """Return the backend in force: the innermost `use_backend`, else MMFAST_BACKEND, else "native"."""
    name = _chosen[-1] if _chosen else os.environ.get("MMFAST_BACKEND", "native")
    if name not in BACKENDS:
        raise MmfastError(f"backend '{name}' is unknown; choose one of {', '.join(BACKENDS)}")
    return name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the `with` block by `name`, "native" or "reference"."""
    _chosen.append(name)
    try:
        backend()
        yield
    finally:
        _chosen.pop()


def native(op: str, tensor: torch.Tensor) -> bool:
    """Return whether `op` runs its native kernel on the tensor's device; never falls back silently.

    Raises MmfastError when native is chosen but the extension or the device's kernel is absent.
    """
    if backend() == "reference":
        return False
    if torch.compiler.is_compiling():
        return True  # the dispatcher's tables cannot be traced; an absent kernel still fails when the graph runs
    reason = absence(op, tensor.device.type)
    if reason:
        raise MmfastError(f"{op}: {reason}; or choose the slow plain-PyTorch ops with MMFAST_BACKEND=reference")
    return True


def call_native(op: str, *arguments: Any) -> Any:
    """Return what the native kernel returns. Raises MmfastError with the kernel's sentence about a bad argument.

    All tensors must lie on one device. Inside torch.compile the kernel runs later, with the graph; what it refuses then
    is a RuntimeError of torch.
    """
    kernel = getattr(torch.ops.mmfast, op)
    if torch.compiler.is_compiling():
        return kernel(*arguments)  # the fake kernel checks the devices
    check_devices(op, arguments)
    try:
        return kernel(*arguments)
    except (RuntimeError, ValueError) as error:
        # Other errors, such as memory that runs out, keep their type.
        if not str(error).startswith(f"{op}: "):
            raise
        raise MmfastError(str(error).splitlines()[0]) from None


def check_whole(op: str, **numbers: Any) -> None:
    """Raise MmfastError naming the first of the numbers that is not a whole one of 64 bits."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, np.integer, torch.SymInt)):
            raise MmfastError(f"{op}: {name} is {number!r}; wanted a whole number")
        if not isinstance(number, torch.SymInt) and abs(number) >= 2**63:
            raise MmfastError(f"{op}: {name} is {number}; wanted a number of 64 bits")


def absence(op: str, device: str) -> str:
    """Return why `op` has no native kernel on `device` ("cpu", "cuda", "meta"), or "" when it has one."""
    if _C is None:
        return f"the native extension is not loaded ({LOAD_ERROR}); build it with `make build` or `pip install -e .`"
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device, "Meta")
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"mmfast::{op}", key):
        return f"this build has no {device} kernel; rebuild on a machine with nvcc and a CUDA torch, or use device=cpu"
    return ""


def register(op: str, fake: Callable, backward: Callable | None = None, setup: Callable | None = None) -> None:
    """Give a native op its fake kernel and, if it has one, its gradient; nothing to do when the extension is absent."""
    global _C, LOAD_ERROR
    if _C is not None and not hasattr(torch.ops.mmfast, op):
        _C, LOAD_ERROR = None, f"it was built from older sources, without {op}"
    if _C is None:
        return
    torch.library.register_fake(f"mmfast::{op}")(_of_one_device(op, fake))
    if backward is not None:
        torch.library.register_autograd(f"mmfast::{op}", backward, setup_context=setup)


def _of_one_device(op: str, fake: Callable) -> Callable:
    """Return the fake kernel that refuses tensors of two devices: a call with any meta tensor arrives here."""

    @functools.wraps(fake)
    def checked(*arguments: Any) -> Any:
        check_devices(op, arguments)
        return fake(*arguments)

    return checked


def check_devices(op: str, arguments: Sequence[Any]) -> None:
    """Raise MmfastError unless all tensors among the op's arguments, or in lists among them, lie on one device."""
    device = None
    for argument in arguments:
        for tensor in argument if isinstance(argument, (list, tuple)) else (argument,):
            if isinstance(tensor, torch.Tensor):
                if device is None:
                    device = tensor.device
                elif tensor.device != device:
                    _refuse_devices(op, arguments)


def _refuse_devices(op: str, arguments: Sequence[Any]) -> None:
    names = [argument.name for argument in getattr(torch.ops.mmfast, op).default._schema.arguments]
    named = dict(zip(names, arguments, strict=False))
    for name in names:
        if isinstance(named.get(name), (list, tuple)):
            named |= {f"{name}[{place}]": tensor for place, tensor in enumerate(named.pop(name))}
    there = [(name, tensor.device) for name, tensor in named.items() if isinstance(tensor, torch.Tensor)]
    first, device = there[0]
    name, other = next(pair for pair in there if pair[1] != device)
    raise MmfastError(f"{op}: {name} is on {other}, {first} on {device}; move both to one device")
