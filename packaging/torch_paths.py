"""What the build must know of the torch it builds against, as JSON for CMake: the user's own torch if there is one.

pip builds in an isolated environment that hides the user's packages; an extension built against another torch than
the one it runs beside would not load, so the user's torch is looked for first, by a Python that ignores the isolation.
"""

import json
import subprocess
import sys

PINNED_TORCH = "2.13.0"  # installed where no torch is there yet

_PROBE = """
import json, os, torch
root = os.path.dirname(torch.__file__)
include = os.path.join(root, "include")
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda or "",
    "include": ";".join([include, os.path.join(include, "torch", "csrc", "api", "include")]),
    "lib": os.path.join(root, "lib"),
    "cxx11_abi": int(torch._C._GLIBCXX_USE_CXX11_ABI),
}))
"""


def torch_facts(isolated: bool = True) -> dict | None:
    """Return version, CUDA version ("" for a CPU build), paths and ABI of torch, or None where it is absent.

    isolated: ask the user's environment; otherwise the one that this process sees.
    """
    flags = ["-I"] if isolated else []
    done = subprocess.run([sys.executable, *flags, "-c", _PROBE], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def build_facts() -> dict:
    """Return the facts of the torch to build against and the include folder of pybind11."""
    import pybind11

    facts = torch_facts() or torch_facts(isolated=False)
    if facts is None:
        sys.exit(f"mmfast's native build needs torch; run: pip install torch=={PINNED_TORCH}")
    return {**facts, "pybind11": pybind11.get_include()}


if __name__ == "__main__":
    json.dump(build_facts(), sys.stdout)
