"""Worker processes end with their parent, and the loss of one is a sentence."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mmfast.content.worker_pool import worker_pool
from mmfast.errors import MmfastError

PARENT = """
import os, signal, sys
sys.path.insert(0, {root!r})
from mmfast.content.worker_pool import worker_pool
if __name__ == "__main__":
    with worker_pool(2, int) as pool:
        futures = [pool.submit(os.getpid) for _ in range(8)]
        print(*sorted({{future.result() for future in futures}}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def end_it(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_lost_worker_is_a_sentence():
    with pytest.raises(MmfastError, match=r"a worker process .* was ended from outside"), worker_pool(2, int) as pool:
        list(pool.map(end_it, range(3)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    program = tmp_path / "parent.py"
    program.write_text(PARENT.format(root=os.getcwd()))
    done = subprocess.run([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, timeout=120)
    workers = [int(word) for word in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and workers
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(process):
    """Whether a process runs: one that has ended may wait to be fetched."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
