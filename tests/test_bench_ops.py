"""Every benchmark of an op runs at its smallest size, prints whole cases, and no op is left without one."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmfast import doctor, ops

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
NOT_OF_OPS = {
    "ckd",
    "content",
    "evaluate",
    "models_table",
    "objects",
    "prepare",
    "ptmrec",
    "ptmrec_demo",
    "ptmrec_elec",
}
NOT_OF_OPS |= {"build", "quality", "scale", "targetmr", "targetmr_stages", "train"}
SCRIPTS = sorted({path.stem for path in BENCH.glob("[!_]*.py")} - NOT_OF_OPS)
WITHOUT_WORK = {"CSR", "Edges", "backend", "use_backend", "batch_count"}  # types, a setting, a product of two numbers
RUN_ALL = """
import runpy, sys
sys.path.insert(0, "bench")
for name in sys.argv[1:]:
    sys.argv = [f"bench/{name}.py", "--shapes", "tiny", "--repeat", "2", "--threads", "1", "--json"]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def cases() -> list[dict]:
    # One interpreter for all of them: importing torch takes seconds.
    command = [sys.executable, "-c", RUN_ALL, *SCRIPTS]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_script_prints_whole_cases(cases):
    assert {case["command"].split()[1] for case in cases} == {f"bench/{name}.py" for name in SCRIPTS}
    for case in cases:
        assert all(isinstance(case[key], str) and case[key] for key in ("bench", "case", "pass", "device")), case
        assert case["threads"] == 1 and case["calls"] >= 1, case
        assert case["median_s"] > 0 and case["spread_s"] >= 0 and case["peak_bytes"] >= 0, case
        assert case["least_bytes"] + case["least_flops"] > 0, case
        assert case["limit_fraction"] is not None and case["limit_fraction"] > 0, case
        assert case["ratios"] and all(ratio > 0 and math.isfinite(ratio) for ratio in case["ratios"].values()), case


def test_the_table_says_which_script_measures_an_op(cases):
    table = re.findall(r"^\| (`.*?) \| (.*?) \|", (BENCH / "README.md").read_text(), re.MULTILINE)
    named = set()
    for scripts, measured in table:
        commands = {f"bench/{name}.py" for name in re.findall(r"`(\w+)`", scripts)}
        own = [case for case in cases if case["command"].split()[1] in commands]
        run = {kernel for case in own for kernel in case["kernels"]} | {case["bench"] for case in own}
        found = set(re.findall(r"`(\w+)`", measured))
        assert found <= run, scripts
        named |= found
    assert set(ops.__all__) - WITHOUT_WORK - named == set()


def test_every_op_is_measured(cases):
    called = {kernel for case in cases for kernel in case["kernels"]}
    assert set(doctor.op_names()) <= called
    assert set(ops.__all__) - WITHOUT_WORK <= called | {case["bench"] for case in cases}
