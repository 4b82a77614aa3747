"""Installs mmfast: CMake builds the native module (see CMakeLists.txt); dependencies follow the torch that is there.

Environment: MMFAST_CUDA=auto|0|1|kernels chooses the CUDA build, MAX_JOBS the number of compile jobs.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "packaging"))
from dependencies import core, extras  # noqa: E402
from torch_paths import PINNED_TORCH, torch_facts  # noqa: E402


class CMakeBuild(build_ext):
    """Runs CMake with ninja in build/<python>-<mode>, kept between calls so that a rebuild is incremental."""

    def build_extension(self, ext: Extension) -> None:
        """Configure and build `_C` into the place setuptools asks for."""
        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        mode = os.environ.get("MMFAST_CUDA", "auto")
        folder = ROOT / "build" / f"{sys.implementation.cache_tag}-{mode}"
        configure = ["cmake", "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}"]
        configure += [f"-DMMFAST_OUT={out}", f"-DMMFAST_CUDA={mode}", "-DCMAKE_BUILD_TYPE=Release"]
        if not (folder / "CMakeCache.txt").exists():
            configure += ["-G", "Ninja"]
        subprocess.check_call(configure + os.environ.get("CMAKE_ARGS", "").split())
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        subprocess.check_call(["cmake", "--build", str(folder), "-j", jobs])


facts = torch_facts() or torch_facts(isolated=False) or {"version": PINNED_TORCH, "cuda": ""}
setup(
    ext_modules=[Extension("mmfast._C", [])],
    cmdclass={"build_ext": CMakeBuild},
    install_requires=core(facts),
    extras_require=extras(facts, ROOT),
)
