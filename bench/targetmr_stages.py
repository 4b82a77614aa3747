"""TargetMR at a data set's shape with random objects: stages after encoding, Eq. 22, an epoch of FREEDOM with it.

python bench/targetmr_stages.py --shape elec --batches 20 --json     63,001 items, about 4 words and 5 masks each

An epoch of `select` and of `refine`; the graph of Eq. 22 against knn_graph on the same features; steps of FREEDOM +
TargetMR against FREEDOM on frozen features of the same width, and the epochs that they and the graph come to.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import emit, shapes
from _data import power_law_dataset

from mmfast.config import build_config
from mmfast.data.dataset import Dataset
from mmfast.device import keep_freed_memory
from mmfast.frameworks.targetmr.extend import common_features, similar_items
from mmfast.frameworks.targetmr.objects import ItemObjects
from mmfast.frameworks.targetmr.ragged import Ragged, offsets
from mmfast.frameworks.targetmr.select import TextVectors
from mmfast.memory import PeakMemory
from mmfast.ops import knn_graph
from mmfast.training import Training, build_training

KIND_SIZE, NOISE = 3, 0.6  # items that look alike, and how far apart they lie; neighbours of Eq. 22 are among them


def random_objects(num_items: int, width: int, most_words: int, masks: int) -> ItemObjects:
    """Return objects of items of many kinds: 1 to `most_words` words and `masks` masks each, the first its kind's."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(-(-num_items // KIND_SIZE), width, generator=generator)
    kind = torch.randint(len(kinds), (num_items,), generator=generator)

    def rows(counts: torch.Tensor) -> Ragged:
        values = torch.randn(int(counts.sum()), width, generator=generator)
        first = offsets(counts)[:-1]
        values[first] = kinds[kind] + NOISE * values[first]
        return Ragged(values, offsets(counts))

    words = rows(torch.randint(1, most_words + 1, (num_items,), generator=generator))
    seen = rows(torch.full((num_items,), masks))
    position = torch.arange(len(words.values)) - words.ptr[words.owners()] + 1
    positions = torch.randn(77, width, generator=generator)
    texts, photos = (kinds[kind] + torch.randn(num_items, width, generator=generator) for _ in range(2))
    vectors = TextVectors(texts, 0.1 * words.values, words.values, position, positions, words.ptr)
    has = torch.ones(num_items, dtype=torch.bool)
    return ItemObjects(vectors, seen, photos, has, has, "random")


def settings_of(folder: Path, objects: ItemObjects, epochs: int) -> dict[str, Any]:
    """Write the objects and a label for each item, and return the framework's settings that name them."""
    objects.save(folder / "objects.safetensors")
    rows = [f"{item},0" for item, count in enumerate(objects.text.ptr.diff().tolist()) if count > 1]
    (folder / "labels.csv").write_text("\n".join(["item,object_index", *rows]) + "\n")
    return {
        "name": "targetmr",
        "objects": {"file": str(folder / "objects.safetensors")},
        "labels": {"by": "file", "file": str(folder / "labels.csv")},
        "select": {"epochs": epochs},
        "refine": {"epochs": epochs},
    }


def training(dataset: Dataset, framework: list[dict[str, Any]]) -> Training:
    """Return a run of FREEDOM on frozen features, with or without a framework."""
    raw = {"model": {"name": "freedom", "train_features": False}, "framework": framework}
    return build_training(build_config(raw), dataset, Path(), torch.device("cpu"))


def steps_seconds(run: Training, batches: int) -> float:
    """Return the mean seconds of a step after one that is not counted."""
    run.framework.train()
    steps = itertools.islice(run.sampler.epoch(0), batches + 1)
    run.framework.step(next(steps), run.optimizer)
    start = time.perf_counter()
    for batch in steps:
        run.framework.step(batch, run.optimizer)
    return (time.perf_counter() - start) / batches


def timed(fn: Callable[[], Any]) -> tuple[Any, float, int]:
    """Return what fn returns, its seconds, and the private memory of the process at its peak."""
    with PeakMemory(torch.device("cpu")) as memory:
        start = time.perf_counter()
        found = fn()
        seconds = time.perf_counter() - start
    return found, seconds, memory.bytes


def measured(args: argparse.Namespace, work: Path) -> list[dict]:
    """Return the cases of one shape."""
    shape = shapes[args.shape]
    dataset = power_law_dataset(args.shape, {m: 2 * args.width for m in ("text", "image")})
    framework = settings_of(work, random_objects(shape.num_items, args.width, args.words, args.masks), epochs=1)
    plain = training(dataset, [])
    targeted, stages, stages_peak = timed(lambda: training(dataset, [framework]))
    model, extension = targeted.framework.model, targeted.framework.extension
    features = common_features([model.sources[m].graph_features() for m in model.modalities])
    pairs, graph, graph_peak = timed(lambda: extension.apply(model))
    near, near_peak = timed(lambda: similar_items(features, 0.7, 10))[1:]
    knn = timed(lambda: knn_graph(features, 10))[1]
    plain_step, step = steps_seconds(plain, args.batches), steps_seconds(targeted, args.batches)
    steps = plain.sampler.steps

    def case(kind: str, seconds: float, peak: int, ratios: dict[str, float], **more: object) -> dict:
        facts = {"device": "cpu", "threads": args.threads, "median_s": seconds, "spread_s": 0.0, "peak_bytes": peak}
        none = {"least_bytes": 0, "least_flops": 0, "limit_fraction": None}
        return {"bench": "targetmr_stages", "case": args.shape, "pass": kind, **facts, **none, "ratios": ratios, **more}

    return [
        case("stages 1-2 of one epoch each, backbone built", stages, stages_peak, {}),
        case("Eq. 22", graph, graph_peak, {}, edges=len(pairs[0]), training_rows=len(dataset.train)),
        case("similar items of Eq. 22", near, near_peak, {"knn_graph": knn / near}),
        case("step", step, 0, {"plain": plain_step / step}),
        case("epoch", graph + step * steps, 0, {"plain": plain_step * steps / (graph + step * steps)}),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(shapes), default="elec")
    parser.add_argument("--width", type=int, default=512, help="numbers of an object's vector; features have twice")
    parser.add_argument("--words", type=int, default=7, help="most words of an item")
    parser.add_argument("--masks", type=int, default=5, help="masks of an item")
    parser.add_argument("--batches", type=int, default=20, help="steps that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as work:
        os.environ["MMFAST_CACHE"] = work  # stages of an earlier run must not count
        for case in measured(args, Path(work)):
            emit(case, args.json)


if __name__ == "__main__":
    main()
