"""Freed memory that is kept for the next tensors: it saves page faults, does not grow, and is given back when told."""

import platform
import subprocess
import sys

import pytest

from mmfast.ops import _backend

GLIBC = platform.libc_ver()[0] == "glibc"
pytestmark = pytest.mark.skipif(not GLIBC or _backend._C is None, reason="glibc and native ops alone")

START = """
import random, resource, threading, torch
from mmfast.device import keep_freed_memory, release_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
KEEP = START + "keep_freed_memory()\n"


def told(program: str) -> list[int]:
    """Return the numbers that a program prints in a process of its own: keeping memory is for a whole process."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("sizes", [(6_000_000,), (6_000_000, 4_000_000, 3_000_000), (50_000, 900_000, 300_000)])
def test_steps_that_repeat_cost_no_page_faults(sizes):
    (kept,) = told(
        f"{START}"
        f"def step():\n    for size in {sizes}: torch.empty(size).fill_(1.0)\n"
        "def three(): step(); step(); step()\n"
        "keep_freed_memory(); three(); print(faults(three))"
    )
    pages = 3 * 4 * sum(sizes) // 4096
    assert kept < 0.02 * pages + 50


def test_small_tensors_that_outlive_large_ones_do_not_make_the_process_grow():
    before, after = told(
        KEEP
        + """
small = []
for step in range(40):
    if step == 8: print(resident())
    scores = torch.zeros(4_000_000)
    above = scores > 0
    del scores
    small.append(above.sum().reshape(1).repeat(1024))
    del above
print(resident())
"""
    )
    assert after - before < 40_000_000  # 32 steps of 20 MB each


def test_sizes_that_change_do_not_make_the_process_grow():
    start, after = told(
        KEEP
        + """
draw, live, small = random.Random(0), [], []
for step in range(400):
    if step == 100: print(resident())
    live.append(torch.zeros(draw.randrange(10_000, 2_000_000)))
    small.append(torch.zeros(1000))
    if len(live) > 8: live.pop(draw.randrange(8))
print(resident())
"""
    )
    assert after - start < 100_000_000  # at most 72 MB live; 300 steps of 4 MB in the mean


def test_kept_memory_is_given_back():
    kept, left = told(
        KEEP
        + """
start = resident()
torch.ones(20_000_000)
print(resident() - start)
release_freed_memory()
print(resident() - start)
"""
    )
    assert kept > 70_000_000 > 10_000_000 > left


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 32_768, (8 << 20) - 1, 8 << 20, (8 << 20) + 1])
def test_every_size_holds_its_numbers_in_an_aligned_place(count):
    wrong, crooked = told(
        KEEP
        + f"""
tables = [torch.full(({count},), float(n)) for n in range(3)]
del tables[1]
tables.append(torch.full(({count},), 3.0))
print(sum(int((table != n).any()) for table, n in zip(tables, (0, 2, 3))))
print(sum(table.data_ptr() % 64 for table in tables))
"""
    )
    assert (wrong, crooked) == (0, 0)


def test_no_two_threads_share_memory():
    wrong, done = told(
        KEEP
        + """
torch.set_num_threads(1)
wrong, done = [], []
def work(name):
    draw, mine = random.Random(name), []
    for step in range(400):
        if len(mine) > 5: mine.pop(draw.randrange(len(mine)))
        mine.append(torch.full((draw.choice([10, 40_000, 300_000, 900_000]),), float(name)))
        if any(table[0] != name or table[-1] != name or table[len(table) // 2] != name for table in mine):
            wrong.append(name)
    done.append(name)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(wrong), len(done))
"""
    )
    assert (wrong, done) == (0, 4)


def test_tensors_from_before_and_of_other_makers_are_freed_where_they_came_from():
    total, more = told(
        START
        + """
import numpy as np
old, resized = torch.ones(600_000), torch.ones(10)
keep_freed_memory()
del old
resized.resize_(1_000_000).fill_(1)
array = np.ones(500_000)
table = torch.from_numpy(array)
view = torch.ones(500_000)[10:]
out = view.numpy()
del view, table, array
torch.ones(600_000).share_memory_()
lazy = torch.ones(100_000)._lazy_clone()
lazy += 1
with torch.profiler.profile(profile_memory=True): torch.ones(1_000_000)
print(int(out.sum() + resized.sum()), int(lazy.sum()))
"""
    )
    assert (total, more) == (499_990 + 1_000_000, 200_000)


def test_a_forked_process_goes_on():
    program = """
import os, sys
stop = False
def work():
    while not stop: torch.empty(200_000)
thread = threading.Thread(target=work); thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        torch.ones(300_000)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status: sys.exit("a child failed")
stop = True
thread.join()
print(1)
"""
    assert told(KEEP + program) == [1]


def test_more_than_the_machine_has_is_the_usual_error():
    program = """
try:
    torch.empty(1 << 55)
except RuntimeError as error:
    print(int("allocate memory" in str(error)))
"""
    assert told(KEEP + program) == [1]
