"""Time of building the native extension from a clean clone, and the memory of its largest compiler process.

Run from the repository: `python bench/build.py [--jobs 2] [--object csrc/cpu/rank.cpp] [--json]`. What is committed is
built, without a compiler cache, into a temporary folder; torch and the tools are those of the Python that runs this.
--object compiles one file and the headers that all share, to try the script.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import emit

ROOT = Path(__file__).resolve().parent.parent
SECONDS = {"0": 180, "kernels": 600, "1": 600}  # what a build may take on two cores, by MMFAST_CUDA
MEMORY = 6 << 30


def build(folder: Path, options: argparse.Namespace) -> float:
    """Return the seconds of configuring and compiling a clone in `folder`."""
    clone, made = folder / "mmfast", folder / "build"
    subprocess.check_call(["git", "clone", "--quiet", "--local", str(ROOT), str(clone)])
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"CCACHE_DISABLE": "1", "PATH": tools}
    configure = ["cmake", "-S", str(clone), "-B", str(made), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-DMMFAST_CUDA={options.cuda}", f"-DMMFAST_OUT={folder}", "-DCMAKE_BUILD_TYPE=Release"]
    target = f"CMakeFiles/_C.dir/{options.object}.o" if options.object else "_C"
    started = time.perf_counter()
    for command in (configure, ["cmake", "--build", str(made), "-j", str(options.jobs), "--target", target]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def main() -> None:
    """Build once and print the case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cuda", choices=list(SECONDS), default="0", help="MMFAST_CUDA of CMakeLists.txt")
    parser.add_argument("--object", help="compile this source alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = build(Path(folder), options)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of the largest process, Linux
    case = {
        "bench": "build",
        "case": f"MMFAST_CUDA={options.cuda}, {options.object or 'all'}",
        "pass": "clean",
        "device": "cpu",
        "threads": options.jobs,
        "median_s": seconds,
        "spread_s": 0.0,
        "peak_bytes": peak,
        "least_bytes": 0,
        "least_flops": 0,
        "limit_fraction": None,
        "ratios": {"the time allowed": SECONDS[options.cuda] / seconds, "the memory allowed": MEMORY / peak},
    }
    emit(case, options.json)


if __name__ == "__main__":
    main()
