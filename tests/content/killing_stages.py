"""Kills every stage of `mmfast features` at random moments, resumes it, and compares the bytes with a clean run's.

Run by a test, or by hand: `python -m tests.content.killing_stages KILLS WORK [JOB ...]`. As in `killing`, this process
only loads the libraries and forks.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from tests.content.killing import child, content

ITEMS = 24
LOCAL = {"dtype": "float32", "device": "cpu", "batch_size": 2}


def make_models(models: Path, tiny: bool) -> None:
    """Write a parser, a small demo catalogue, and perhaps two tiny language models."""
    from mmfast.data.demo import demo_folder
    from tests.content.tiny_models import save_llama, save_mllama
    from tests.content.treebank import trained_parser

    os.environ["MMFAST_CACHE"] = str(models / "cache")
    sys.stdout = (models / "parser.log").open("w")
    trained_parser(models)
    if tiny:
        save_llama(models / "llama")
        save_mllama(models / "mllama")
    shutil.copytree(demo_folder(num_items=ITEMS, num_users=20), models / "demo")


def features(models: Path, work: Path) -> None:
    """Run the one command that computes objects, masks and both features."""
    from mmfast.cli import main

    command = ["features", str(work / "demo"), "--image", "light", "--text", "light", "--rule", "wider", "--quiet"]
    assert main([*command, "--objects", str(models / "out"), "--masks", "light"]) == 0


def objects(models: Path, work: Path) -> None:
    """Find the objects of the texts, in small blocks."""
    from mmfast.cli import main
    from mmfast.content import parse

    parse.BLOCK, parse.BATCH = 4, 2
    command = ["features", "objects", str(work / "demo"), f"parse.pipeline={models / 'out'}", "--quiet"]
    assert main([*command, "--out", str(work / "objects.safetensors")]) == 0


def masks(models: Path, work: Path) -> None:
    """Segment the photos."""
    from mmfast.cli import main

    command = ["features", "segment", str(work / "demo"), "side=64", "--quiet"]
    assert main([*command, "--out", str(work / "masks.safetensors")]) == 0


def descriptions(models: Path, work: Path) -> None:
    """Describe the photos by a local model and encode what it says."""
    from mmfast.cli import main

    command = ["features", "describe", str(work / "demo"), "--quiet", "max_new_tokens=3", "--encode", "light"]
    assert main([*command, *_local(models / "mllama")]) == 0


def labels(models: Path, work: Path) -> None:
    """Label by a local model's probabilities."""
    from mmfast.cli import main

    command = ["features", "label", str(work / "demo"), "--quiet", "--parser", str(models / "out"), "--rule", "wider"]
    assert main([*command, "choose=sum", *_local(models / "llama"), "--out", str(work / "labels.csv")]) == 0


JOBS = {one.__name__: one for one in (features, objects, masks, descriptions, labels)}


def _local(model: Path) -> list[str]:
    return [f"local.model={model}", *(f"local.{name}={value}" for name, value in LOCAL.items())]


def run(job: str, models: Path, work: Path) -> None:
    """Run a job in a folder of its own: its copy of the catalogue, its cache, and what it writes."""
    import torch

    torch.set_num_threads(1)
    os.environ["MMFAST_CACHE"] = str(work / "cache")
    sys.stdout = Path(os.devnull).open("w")
    JOBS[job](models, work)


def begin(models: Path, work: Path) -> Path:
    """Return a new folder with a copy of the catalogue."""
    shutil.copytree(models / "demo", work / "demo")
    return work


def whole(work: Path) -> dict[str, str]:
    """Return name -> sha256 of all that counts: not the half files of killed processes, which no name leads to."""
    return {name: digest for name, digest in content(work).items() if not name.endswith(".part")}


def kill(job: str, kills: int, models: Path, work: Path) -> dict[str, object]:
    """Kill a job until `kills` processes have died; return how many, how many runs finished, and how many agree."""
    clean, rng = begin(models, work / "clean"), random.Random(0)
    child(run, job, models, clean)
    began = time.monotonic()  # of a second run: the first one of all compiles and reads more
    child(run, job, models, begin(models, work / "second"))
    usual, expected = time.monotonic() - began, whole(clean)
    assert whole(work / "second") == expected, f"{job}: two clean runs differ"
    killed = finished = same = 0
    while killed < kills or not finished:
        folder, before, began = begin(models, work / f"run{finished}"), killed, time.monotonic()
        while not child(run, job, models, folder, seconds=usual * 1.1 * rng.random() if killed < kills else None):
            killed += 1
        if killed == before:  # it finished before its kill: the machine is less busy now
            usual = time.monotonic() - began
        same += whole(folder) == expected
        finished += 1
        print(f"{job}: {killed} kills, {finished} runs finished, {same} of them as the clean one", file=sys.stderr)
    return {"kills": killed, "finished": finished, "same": same, "files": len(expected), "usual_s": round(usual, 2)}


def main(kills: int, work: Path, jobs: list[str]) -> dict[str, object]:
    """Return what `kill` tells of each job."""
    import skimage.segmentation  # noqa: F401
    import spacy  # noqa: F401

    from mmfast.content import describe, features, label, segment, text_objects  # noqa: F401

    tiny = bool({"descriptions", "labels"} & set(jobs))
    if tiny:
        from mmfast.content.weights import need_package

        need_package("transformers", "language models")
        import transformers  # noqa: F401

    models = work / "models"
    models.mkdir(parents=True)
    child(make_models, models, tiny)
    told = {}
    for job in jobs:
        told[job] = kill(job, kills, models, work / job)
    return told


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(JOBS))))
