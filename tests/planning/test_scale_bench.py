"""The benchmark of several ranks runs at its smallest size and says how far estimates are from measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lines(*arguments: str) -> list[dict]:
    command = [sys.executable, "bench/scale.py", "--model", "lightgcn", "--probe", "700", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ranks_are_compared_with_one_process_and_with_the_plan():
    one, two = lines("--shape", "tiny", "--ranks", "1", "2", "--plans", "row", "--steps", "12", "--batch-size", "256")
    assert (one["ranks"], two["ranks"], two["threads"], two["steps"]) == (1, 2, 1, 12)
    assert two["loss_difference"] < 1e-5 and len(two["peaks"]) == 2 and two["gather_rate"] > 0
    assert one["loss_difference"] == 0.0 and one["same_metrics"] is True
    assert 0.8 < one["estimate"]["peak_ratio"] < 1.25 and one["estimate"]["step_ratio"] > 0
    assert two["all_peaks_bytes"] > 2 * 100e6


def test_what_is_not_measured_says_so():
    found = lines("--simulate", "--threads", "1")
    assert all(case["simulation"] for case in found) and found[-1]["ranks"] == 1000
    assert found[-1]["interactions"] > 9.9e8 and found[-1]["train_bytes"] > 0
