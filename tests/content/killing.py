"""Kills the encoding of a small shop at random moments, resumes it, and compares the bytes with those of a clean run.

Run by a test, or by hand: `python -m tests.content.killing KILLS START PHOTOS CLIP SENTENCE WORK`. This process loads
the libraries once and only forks: what starts threads (polars, models) runs in its children.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

OPTIONS = {"device": "cpu", "workers": 0, "batch_size": 2}
BLOCK = 4


def compute(folder: Path, photos: Path, store: Path, clip: Path, sentence: Path) -> None:
    """Encode both modalities in small blocks."""
    from mmfast.content import encode
    from mmfast.content.encoders import EncodeConfig
    from mmfast.content.features import write_features
    from mmfast.content.store import Store

    encode.BLOCK = BLOCK
    configs = {
        "image": EncodeConfig(model=f"clip:{clip}", **OPTIONS),
        "text": EncodeConfig(model=f"sentence:{sentence}", **OPTIONS),
    }
    write_features(folder, configs, store=Store(store), pictures=[photos])


def check(folder: Path) -> None:
    """Read a folder as training would: it is whole at every moment, with old or with new features."""
    from mmfast.data.prepared import read_prepared, verify_prepared

    read_prepared(folder)
    verify_prepared(folder)


def child(function: Callable[..., None], *arguments: object, seconds: float | None = None) -> bool:
    """Run a function in a forked process, killed after some seconds; return whether it finished before."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or time.monotonic() < deadline:
        done, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
        if done:
            assert status == 0, f"the child ended with {status}"
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def content(folder: Path) -> dict[str, str]:
    """Return name -> sha256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load_libraries() -> None:
    """Import what takes long, and start no thread."""
    from mmfast.content.torchvision_ops import prepare_torchvision

    prepare_torchvision()
    import open_clip  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch

    from mmfast.content import encode_clip, encode_sentence, features  # noqa: F401

    torch.set_num_threads(1)


def main(kills: int, start: Path, photos: Path, clip: Path, sentence: Path, work: Path) -> dict[str, object]:
    """Kill until `kills` processes have died; return how many, how many runs finished, and how many of them agree."""
    load_libraries()
    clean = shutil.copytree(start, work / "clean")
    began = time.monotonic()
    child(compute, clean, photos, work / "store", clip, sentence)
    usual, rng = time.monotonic() - began, random.Random(0)
    expected = content(clean)
    killed = finished = same = 0
    while killed < kills or not finished:
        folder = shutil.copytree(start, work / f"run{finished}")
        given = (folder, photos, work / f"store{finished}", clip, sentence)
        while not child(compute, *given, seconds=usual * 1.1 * rng.random() if killed < kills else None):
            killed += 1
            child(check, folder)
        same += content(folder) == expected
        finished += 1
    hashes = {name.split("-")[0].split("_")[1]: digest for name, digest in expected.items() if name.endswith(".npy")}
    return {"kills": killed, "finished": finished, "same": same, "usual_s": usual, "hashes": hashes}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), *map(Path, sys.argv[2:]))))
