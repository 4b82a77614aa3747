"""Every stage of `mmfast features`, killed at random moments and started again, ends in the bytes of one clean run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.content.killing_stages import JOBS

KILLS = int(os.environ.get("MMFAST_KILLS", "1"))  # of each stage; 50 for the whole proof


def test_killed_stages_end_in_the_same_bytes(tmp_path):
    command = [sys.executable, "-m", "tests.content.killing_stages", str(KILLS), str(tmp_path / "work")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() == JOBS.keys()
    for job, found in told.items():
        assert found["kills"] >= KILLS and found["finished"] == found["same"] >= 1, (job, found)
        assert found["files"] > 5, (job, found)
