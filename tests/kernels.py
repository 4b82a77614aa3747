"""Which kernels the tests run against: the CPU's, the emulated CUDA kernels (MMFAST_TEST_EMULATED), or a GPU's.

MMFAST_TEST_EXTENSION names a folder whose _C takes the place of the package's own.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

import mmfast

EXTENSION = os.environ.get("MMFAST_TEST_EXTENSION", "")
if EXTENSION:
    mmfast.__path__.insert(0, str(Path(EXTENSION).resolve()))

from mmfast.ops import _backend  # noqa: E402 - loads _C and registers the schemas

if EXTENSION and not (_backend._C and Path(_backend._C.__file__).parent == Path(EXTENSION).resolve()):
    raise ImportError(f"MMFAST_TEST_EXTENSION: no _C of this code was loaded from {EXTENSION}; build it there")

EMULATED = os.environ.get("MMFAST_TEST_EMULATED", "")
DEVICE = os.environ.get("MMFAST_TEST_DEVICE", "cpu")


def fewer(count: int) -> int:
    """Return a quarter of a number of rows on the emulated device, where a pair of rows costs a thousand times more."""
    return count // 4 if EMULATED else count


def run_on(device: str) -> list[torch.library.Library]:
    """Let every op of CPU tensors run its kernel on `device`: arguments go there, results and changed arguments back.

    The tests then need no word about devices, and values meet the kernels as they are.
    """
    library = torch.library.Library("mmfast", "IMPL")
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("mmfast::")]
    for name in names:
        op = getattr(torch.ops.mmfast, name.removeprefix("mmfast::")).default

        def forward(*arguments, op=op):
            there = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
            result = op(*there)
            for argument, here, moved in zip(op._schema.arguments, arguments, there, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    here.copy_(moved)
            return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.cpu(), result)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators")  # which tells of the override
            library.impl(name.removeprefix("mmfast::"), forward, "CPU")
    return [library]


if EMULATED:
    torch.ops.load_library(EMULATED)
elif DEVICE != "cpu":
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"  # wild ids are then sentences instead of a stopped device
    KEPT = run_on(DEVICE)
