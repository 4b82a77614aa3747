"""Freed memory that is kept for the next tensors: bounded, never handed out twice, given back when told."""

import subprocess
import sys

import pytest

from mmfast.ops import _backend

pytestmark = pytest.mark.skipif(sys.platform != "linux" or _backend._C is None, reason="Linux and native ops alone")

START = """
import random, threading, torch
from mmfast.device import keep_freed_memory, release_freed_memory
from mmfast.ops._backend import _C
keep_freed_memory()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
"""


def told(program: str) -> list[int]:
    """Return the numbers that a program prints in a process of its own, which alone keeps its memory."""
    done = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_small_tensors_that_outlive_large_ones_do_not_make_the_process_grow():
    before, after = told("""
small = []
for step in range(40):
    if step == 8: print(resident())
    scores = torch.zeros(4_000_000)
    above = scores > 0
    del scores
    small.append(above.sum().reshape(1).repeat(1024))
    del above
print(resident())
""")
    assert after - before < 40_000_000  # 32 steps of 20 MB each


def test_memory_is_bounded_by_a_quarter_more_than_the_peak():
    start, after = told("""
start = resident()
for size in range(1_000_000, 20_000_000, 300_000):
    torch.zeros(size)
print(start, resident())
""")
    assert after - start < 1.25 * 4 * 20_000_000 * 1.2


def test_kept_blocks_are_used_again_and_given_back():
    again, kept, released, left = told("""
first = torch.ones(3_000_000)
place = first.data_ptr()
del first
print(int(torch.empty(2_950_000).data_ptr() == place))
before = resident()
bytes = _C.release_large_blocks()
print(bytes, before - resident(), _C.release_large_blocks())
""")
    assert again == 1 and kept >= 12_000_000 and left == 0
    assert released > 11_000_000


@pytest.mark.parametrize("count", [0, 1, 32_767, 32_768, 32_769, 8 << 20, (8 << 20) + 1])
def test_sizes_about_the_limits_hold_their_numbers(count):
    (wrong,) = told(f"""
tables = [torch.full(({count},), float(n)) for n in range(3)]
del tables[1]
tables.append(torch.full(({count},), 3.0))
print(sum(int((table != n).any()) for table, n in zip(tables, (0, 2, 3))))
""")
    assert wrong == 0


def test_no_two_threads_share_a_block():
    (wrong,) = told("""
torch.set_num_threads(1)
wrong = []
def work(name):
    draw, mine = random.Random(name), []
    for step in range(400):
        if len(mine) > 5: mine.pop(draw.randrange(len(mine)))
        mine.append(torch.full((draw.choice([10, 40_000, 300_000, 900_000]),), float(name)))
        if any(table[0] != name or table[-1] != name or table[len(table) // 2] != name for table in mine):
            wrong.append(name)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(wrong))
""")
    assert wrong == 0


def test_tensors_from_before_and_arrays_are_freed_where_they_came_from():
    (total,) = told("""
import numpy as np
array = np.ones(500_000)
table = torch.from_numpy(array)
view = torch.ones(500_000)[10:]
out = view.numpy()
del view, table, array
resized = torch.empty(10)
resized.resize_(1_000_000).fill_(1)
torch.ones(600_000).share_memory_()
print(int(out.sum() + resized.sum()))
""")
    assert total == 499_990 + 1_000_000


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
    assert told(program) == [1]


def test_more_than_the_machine_has_is_the_usual_error():
    (raised,) = told("""
try:
    torch.empty(1 << 55)
except RuntimeError as error:
    print(int("allocate memory" in str(error)))
""")
    assert raised == 1
