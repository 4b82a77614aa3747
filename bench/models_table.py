"""Writes docs/models.md: every backbone of the registry with its paper, what it uses, its options and its figures.

python bench/models_table.py          after a change of a model, or after bench/quality.py
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import table

from mmfast.commands.show import option_lines
from mmfast.data.dataset import Dataset, Interactions
from mmfast.models.base import Recommender
from mmfast.models.features import TrainableFeatures
from mmfast.registry import MODELS

ROOT = Path(__file__).parents[1]
HEAD = """# Backbones

Made by `python bench/models_table.py` from the registry, `docs/published.json` and `bench/results/quality-*.json`.

## What they use

| model | method | features | negatives | vector width (D = 64, image and text) |
|---|---|---|---|---|
"""
FIGURES = """
## Figures

Test Recall@20. Amazon Scientific: `configs/scientific_<model>.yaml`, mean over the seeds run (least to most), beside
MMRec's on the same split (one seed). The last columns are published figures, on other splits and features than any
here: by LIRDRec (Table II), PTMRec (Table 1) or TargetMR (Table 1), in this order of preference.

| model | Scientific | MMRec there | Baby, published | Sports, published | Clothing, published |
|---|---|---|---|---|---|
"""
MEASURED = """
### Measured: {data}

Test metrics, mean over the seeds (least to most); epochs until early stopping, the median seconds of an epoch without
its validation, and the peak memory of a run, on one thread of a machine that did other work beside. From
`bench/results/{file}`, made by

```
{commands}
```

{table}
"""


def small_dataset() -> Dataset:
    """Return a data set with image and text features, just large enough to build every model on."""
    users, items = np.repeat(np.arange(12), 6), np.tile(np.arange(12), 6)
    pairs = Interactions.from_pairs(*np.unique(np.stack([users, (users + items) % 12]), axis=1))
    few = Interactions.from_pairs(np.arange(12), np.arange(12))
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(12, 8)).astype(np.float32) for name in ("image", "text")}
    return Dataset("small", 12, 12, train=pairs, valid=few, test=few, features=features)


def build(name: str, dataset: Dataset) -> Recommender:
    """Return a backbone with its default options."""
    entry = MODELS.get(name)
    options = {"k": 4} if "k" in entry.Config.model_fields else {}
    return entry(entry.Config(name=name, **options), dataset, torch.Generator().manual_seed(0))


def uses(model: Recommender) -> str:
    """Return how a backbone uses item features."""
    if not model.modalities:
        return "none"
    trained = any(isinstance(model.sources[m], TrainableFeatures) for m in model.modalities)
    return ("trained" if trained else "frozen") + ("" if model.content_in_scores else ", in the loss alone")


def sentence(entry: Any) -> str:
    """Return the first sentence of a backbone's file, which names the paper."""
    return (inspect.getdoc(inspect.getmodule(entry)) or "").split("\n\n")[0].replace("\n", " ")


def figures_row(name: str, published: dict, reached: dict) -> str:
    """Return the figures of one model as cells of a table."""
    values = [run["test"]["recall@20"] for run in reached.get(name, [])]
    ours = f"{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})" if values else "-"
    peer = published["mmrec_scientific"].get(name)
    cells = [name, ours, "-" if peer is None else f"{peer:.4f}"]
    for data in ("baby", "sports", "clothing"):
        by_source = published["published"].get(name, {}).get(data, {})
        cells.append(f"{next(iter(by_source.values())):.4f}" if by_source else "-")
    return "| " + " | ".join(cells) + " |"


def measured(path: Path) -> str:
    """Return the section of one file of bench/quality.py: metrics, epochs, time and memory by model, the best first."""
    data, results = path.stem.removeprefix("quality-"), json.loads(path.read_text())
    commands = "\n".join(sorted({run["command"] for runs in results.values() for run in runs}))
    return MEASURED.format(data=data, file=path.name, commands=commands, table=table(results))


def page() -> str:
    """Return docs/models.md."""
    dataset = small_dataset()
    names = [name for name in MODELS.names() if MODELS.get(name).__module__.startswith("mmfast.")]
    published = json.loads((ROOT / "docs" / "published.json").read_text())
    files = {path.stem: path for path in sorted((ROOT / "bench" / "results").glob("quality-*.json"))}
    path = files.get("quality-scientific")
    reached = json.loads(path.read_text()) if path else {}
    text, options = HEAD, "\n## Options\n"
    for name in names:
        model = build(name, dataset)
        negatives = "yes" if model.uses_negatives else "no"
        width = model.embed()[0].shape[1]
        text += f"| `{name}` | {sentence(type(model))} | {uses(model)} | {negatives} | {width} |\n"
        fields = {key: field for key, field in type(model).Config.model_fields.items() if key != "name"}
        options += f"\n### {name}\n\n```\n{option_lines(fields)}\n```\n"
    rows = "\n".join(figures_row(name, published, reached) for name in names)
    return text + FIGURES + rows + "\n" + "".join(map(measured, files.values())) + options


if __name__ == "__main__":
    (ROOT / "docs" / "models.md").write_text(page())
