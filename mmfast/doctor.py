"""Versions, devices, the native extension, and which backend every op uses and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmfast

EXAMPLES = """examples:
  mmfast doctor
  mmfast doctor --json > doctor.json
"""
REQUIRED = (
    "torch",
    "numpy",
    "polars",
    "pydantic",
    "pyyaml",
    "rich",
    "safetensors",
    "pillow",
    "tensorboard",
    "faiss-cpu",
)
# package -> the extra that installs it
OPTIONAL = {
    "torchvision": "content",
    "open_clip_torch": "content",
    "segment-anything": "content",
    "spacy": "content",
    "sentence-transformers": "content",
    "transformers": "content",
    "scikit-image": "content",
    "torchrec": "scale",
    "fbgemm-gpu": "scale",
    "optuna": "study",
    "matplotlib": "study",
    "scikit-learn": "study",
}
SHARDING = {"torchrec": ("torchrec",), "fbgemm_gpu": ("fbgemm-gpu", "fbgemm-gpu-cpu")}
CPU_FEATURES = ("sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve")
IMPORT_SECONDS = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast doctor`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    report = examine()
    print(json.dumps(report, indent=1) if args.json else as_text(report))
    return 0


def examine() -> dict[str, Any]:
    """Return the whole report as JSON values; asks the machine, changes nothing."""
    return {
        "versions": versions(),
        "optional": {name: installed_version(name) or missing_extra(extra) for name, extra in OPTIONAL.items()},
        "devices": devices(),
        "threads": threads(),
        "cpu_features": cpu_features(),
        "extension": extension(),
        "ops": op_backends(),
        "sharding": {module: import_state(module, packages) for module, packages in SHARDING.items()},
    }


def versions() -> dict[str, str]:
    """Return the versions of python, mmfast and the packages it always needs; "" for one that is not installed."""
    found = {name: installed_version(name) for name in REQUIRED}
    return {"python": platform.python_version(), "mmfast": mmfast.__version__, **found}


def installed_version(package: str) -> str:
    """Return the installed version of a distribution, "" when it is absent; nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def missing_extra(extra: str) -> str:
    """Return the sentence for a package of `extra` that is not there."""
    return f"not installed; {install_line(extra)}"


def install_line(extra: str) -> str:
    """Return how to install an extra: mmfast is installed from its clone, so the name alone would ask an index."""
    return f'pip install -e ".[{extra}]" in the clone of mmfast'


def devices() -> dict[str, Any]:
    """Return the GPUs torch can use, or why it can use none."""
    import torch

    if torch.cuda.is_available():
        count = range(torch.cuda.device_count())
        gpus = [
            f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB"
            for i in count
        ]
        return {"cuda": gpus, "why": ""}
    if not torch.version.cuda:
        why = f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch to use a GPU"
    else:
        why = f"torch is built for CUDA {torch.version.cuda} but finds no usable GPU; check the driver with nvidia-smi"
    return {"cuda": [], "why": why}


def threads() -> dict[str, Any]:
    """Return how many CPU threads torch uses, how many cores this process may use, and OMP_NUM_THREADS."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"torch": torch.get_num_threads(), "cores": usable, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def cpu_features() -> dict[str, Any]:
    """Return the vector instructions of this CPU (as Linux tells them) and the ones torch chose."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return {"torch": torch.backends.cpu.get_cpu_capability(), "cpu": [f for f in CPU_FEATURES if f in flags]}


def extension() -> dict[str, Any]:
    """Return where the native extension lies and for what it was built; `warning` when it does not fit."""
    import torch

    from mmfast.ops import _backend

    if _backend._C is None:
        why = f"not loaded ({_backend.LOAD_ERROR}); build it with `make build` or `pip install -e .`"
        return {"loaded": False, "path": "", "build": {}, "warning": why}
    build = dict(_backend._C.build_info())
    return {"loaded": True, "path": _backend._C.__file__, "build": build, "warning": misfit(build, torch.__version__)}


def misfit(build: dict[str, str], torch_version: str) -> str:
    """Return the warning for an extension built for another torch than the one that runs, else ""."""
    built, running = build["torch"].split("+")[0], torch_version.split("+")[0]
    if built == running:
        return ""
    return f"built for torch {built} but torch {running} runs; build it again with `make build` or `pip install -e .`"


def op_names() -> list[str]:
    """Return the names of the ops: those with a schema in the extension; without one, those mmfast/ops asks for."""
    import torch

    from mmfast.ops import _backend

    if _backend._C is None:
        files = Path(_backend.__file__).parent.glob("*.py")
        return sorted({name for file in files for name in re.findall(r'native\("(\w+)"', file.read_text("utf-8"))})
    names = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "mmfast::" in name}
    return sorted(name for name in names if not name.endswith("_backward"))


def op_backends() -> dict[str, dict[str, str]]:
    """Return {op: {"cpu": "native" | "reference" | "absent: why", "cuda": ...}}: what a call would run now."""
    from mmfast.ops._backend import absence, backend

    def used(op: str, device: str) -> str:
        if backend() == "reference":
            return "reference"
        why = absence(op, device)
        return f"absent: {why}" if why else "native"

    return {op: {device: used(op, device) for device in ("cpu", "cuda")} for op in op_names()}


def import_state(module: str, packages: tuple[str, ...]) -> str:
    """Return "imports" or why `module` does not; tried in another process, since a wrong binary can crash this one."""
    if not any(installed_version(package) for package in packages):
        return missing_extra("scale")
    command = [sys.executable, "-W", "ignore", "-c", f"import {module}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"does not import within {IMPORT_SECONDS} s"
    if result.returncode == 0:
        return "imports"
    last = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
    return f"does not import: {last}; install the release that fits this torch: {install_line('scale')}"


def as_text(report: dict[str, Any]) -> str:
    """Return the report as lines for a person."""
    gpus = report["devices"]["cuda"]
    native = report["extension"]
    known = ", ".join(f"{key} {value or 'none'}" for key, value in native["build"].items())
    lines = ["packages"]
    lines += [f"  {name:<22} {version or 'not installed'}" for name, version in report["versions"].items()]
    lines += [f"  {name:<22} {text}" for name, text in report["optional"].items()]
    lines += ["devices", f"  cpu   {report['threads']['torch']} threads on {report['threads']['cores']} cores"]
    lines[-1] += f", {', '.join(report['cpu_features']['cpu'])} (torch uses {report['cpu_features']['torch']})"
    lines += [f"  cuda  {gpu}" for gpu in gpus] or [f"  cuda  none: {report['devices']['why']}"]
    lines += ["native extension", f"  {native['path'] or 'absent'}{f' ({known})' if known else ''}"]
    lines += [f"  warning: {native['warning']}"] if native["warning"] else []
    lines += ["ops"]
    for device in ("cpu", "cuda"):
        lines += [f"  {device:<5} {text}: {', '.join(ops)}" for text, ops in _grouped(report["ops"], device).items()]
    lines += ["sharded tables", *(f"  {module:<22} {state}" for module, state in report["sharding"].items())]
    return "\n".join(lines)


def _grouped(ops: dict[str, dict[str, str]], device: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for op, backends in ops.items():
        groups.setdefault(backends[device], []).append(op)
    return groups


if __name__ == "__main__":
    from mmfast.cli import main

    sys.exit(main(["doctor", *sys.argv[1:]]))
