"""The emulated CUDA device finds the faults that it promises to find, and converts numbers as CUDA does."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
NAMES = "half_a_block_waits two_barriers some_lanes_sum reads_before_writing writes_too_far stops races adds_up".split()


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The library of tests/cuda/faults.cu."""
    library = tmp_path_factory.mktemp("device") / "faults.so"
    cuda = ROOT / "csrc" / "cuda"
    command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-DMMFAST_EMULATED", f"-I{cuda}", "-o", library]
    sources = ["-x", "c++", ROOT / "tests" / "cuda" / "faults.cu", cuda / "emulated" / "machine.cpp"]
    subprocess.run([*command, *sources], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.run.restype = ctypes.c_char_p
    return loaded


def run(device, name, blocks=1, threads=64, shared_bytes=256):
    """Return what the device says of a kernel, and what the kernel wrote."""
    out = np.zeros(64, np.float32)
    said = device.run(NAMES.index(name), blocks, threads, shared_bytes, out.ctypes.data_as(ctypes.c_void_p))
    return said.decode(), out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("half_a_block_waits", ("has finished", "waits at __syncthreads", "all threads of a block must meet there")),
        ("two_barriers", ("waits at __syncthreads", "faults.cu:18", "faults.cu:20")),
        ("some_lanes_sum", ("waits at warp_sum", "has finished", "all 32 lanes of a warp must meet there")),
        ("writes_too_far", ("wrote past its 256 bytes of dynamic shared memory",)),
        ("stops", ("unspecified launch failure",)),
    ],
)
def test_faults_are_told(device, name, words):
    said, _ = run(device, name)
    assert all(word in said for word in words), said
    assert run(device, "adds_up")[0] == "no error"  # the device goes on


def test_warps_exchange_only_when_whole(device):
    assert "its warp has fewer than 32 threads" in run(device, "adds_up", threads=40)[0]


def test_shared_memory_is_poisoned_for_every_block(device):
    said, out = run(device, "reads_before_writing", blocks=3)
    assert said == "no error" and np.isnan(out).all()


def test_a_missing_barrier_changes_results_between_launches(device):
    first, second = run(device, "races")[1], run(device, "races")[1]
    assert not np.array_equal(first, second, equal_nan=True)


def test_a_healthy_kernel(device):
    said, out = run(device, "adds_up", blocks=2)
    assert said == "no error" and (out == 63 * 32 + 15).all()


@pytest.mark.parametrize("shape", [(0, 64, 0), (1, 0, 0), (1, 1025, 0), (1, 64, 48 * 1024 + 1)])
def test_impossible_launches_are_refused(device, shape):
    assert run(device, "adds_up", *shape)[0] == "invalid configuration argument"
    assert run(device, "adds_up")[0] == "no error"


def test_half_numbers_round_as_torch_does(device):
    every = np.arange(65536, dtype=np.uint16)
    half, bfloat = np.empty(65536, np.float32), np.empty(65536, np.float32)
    pointer = ctypes.c_void_p
    device.widen(*(pointer(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in (every, 65536, half, bfloat)))
    assert np.array_equal(half, every.view(np.float16).astype(np.float32), equal_nan=True)
    want = torch.from_numpy(every.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(bfloat, want, equal_nan=True)
    # Every half number, what lies between neighbours, and a little to both sides of it.
    finite = np.sort(half[np.isfinite(half)])
    middle = (finite[:-1] + finite[1:]) / 2
    x = np.concatenate([finite, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
    x = np.concatenate([x, np.float32([65519, 65520, 1e9, np.inf, -np.inf, np.nan, 1e-9])]).astype(np.float32)
    narrow, brief = np.empty(x.size, np.uint16), np.empty(x.size, np.uint16)
    device.convert(pointer(x.ctypes.data), x.size, pointer(narrow.ctypes.data), pointer(brief.ctypes.data))
    values = torch.from_numpy(x)
    for bits, dtype in ((narrow, torch.float16), (brief, torch.bfloat16)):
        got = torch.from_numpy(bits.view(np.int16)).view(dtype)
        assert torch.equal(got.nan_to_num(7), values.to(dtype).nan_to_num(7))
