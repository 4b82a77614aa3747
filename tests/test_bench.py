"""The end-to-end benchmark compares and says by which command; all benchmarks start, those of ops on any device."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OF_SEVERAL_PROCESSES = {"propagate_partitioned.py", "split_batch.py"}
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


def test_the_train_bench_warms_up_for_as_many_batches_as_told():
    code = (
        "import sys\n"
        "sys.path.insert(0, 'bench')\n"
        "import train\n"
        "epoch, most = train.epoch, []\n"
        "train.epoch = lambda run, index, batches: most.append(batches) or epoch(run, index, batches)\n"
        "train.main()\n"
        "print(*most)\n"
    )
    command = [sys.executable, "-c", code, *QUICK, "--model", "bpr", "--no-alternatives", "--json"]
    for more, batches in (["--warm-up", "2", "--batches", "1"], "2 1"), (["--batches", "1"], "1 1"):
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        case, most = done.stdout.splitlines()
        assert most == batches and str(json.loads(case)["warm_up_batches"]) == batches[0]


def test_every_benchmark_starts():
    # One interpreter for all of them: importing torch takes seconds. models_table.py takes no arguments and writes.
    paths = sorted(path for path in (ROOT / "bench").glob("[!_]*.py") if path.name != "models_table.py")
    names = [path.name for path in paths]
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
    helps = dict(zip(names, re.split(r"ended .* 0\n", done.stdout), strict=False))
    of_ops = {path.name for path in paths if "--shapes" in helps[path.name]} - OF_SEVERAL_PROCESSES
    assert {name for name in of_ops if "--device" not in helps[name]} == set()


def test_a_search_is_held_against_products_of_the_type_that_proposes():
    code = (
        "import runpy, sys\n"
        "sys.path.insert(0, 'bench')\n"
        "import _gemm\n"
        "asked = []\n"
        "_gemm.gemm_flops = lambda device, dtype: asked.append(str(dtype)) or 1.0\n"
        "for name in ('rank', 'knn_graph'):\n"
        "    options = ['--shapes', 'tiny', '--repeat', '1', '--threads', '1', '--precision', 'bfloat16']\n"
        "    sys.argv = [name, *options]\n"
        "    runpy.run_path(f'bench/{name}.py', run_name='__main__')\n"
        "print(*asked)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rank, search, *others = done.stdout.splitlines()[-1].split()
    assert rank == search == "torch.bfloat16" and others == ["torch.float32"] * 3
