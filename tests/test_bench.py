"""The end-to-end benchmark runs for models with and without a plain form, and its JSON says by which command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUICK = ["--shape", "tiny", "--epochs", "1", "--evaluations", "1", "--threads", "1", "--reference-batches", "1"]


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["--model", "bpr"], {"reference backend", "plain eager"}),
        (["--model", "bpr", "--no-reference"], {"plain eager"}),
        (["--model", "mgcn"], {"reference backend"}),
    ],
)
def test_the_train_bench_compares_and_says_where_its_figures_come_from(arguments, others):
    command = [sys.executable, "bench/train.py", *QUICK, *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    case = json.loads(done.stdout)
    assert {name.rpartition(" ")[0] for name in case["ratios"]} == others
    assert case["command"] == " ".join(["python", *command[1:]])
    assert case["date"].startswith("20") and case["epoch_s"] > 0 and case["eval_s"] > 0


def test_every_benchmark_starts():
    # One interpreter for all of them: importing torch takes seconds. models_table.py takes no arguments and writes.
    names = sorted(path.name for path in (ROOT / "bench").glob("[!_]*.py") if path.name != "models_table.py")
    code = (
        "import runpy, sys\n"
        "sys.path.insert(0, 'bench')\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv = [name, '--help']\n"
        "    try:\n"
        "        runpy.run_path(f'bench/{name}', run_name='__main__')\n"
        "    except SystemExit as stop:\n"
        "        print('ended', name, stop.code)\n"
    )
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    assert ended == [f"ended {name} 0" for name in names]
