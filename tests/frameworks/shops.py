"""A prepared folder of a few items with photos and titles, users who like one of two kinds, and a config for it."""

from __future__ import annotations

import numpy as np
import polars as pl
from PIL import Image

from mmfast.config import build_config
from mmfast.data.prepared import write_prepared

ITEMS, USERS = 20, 24


def write_shop(folder, without_photo=(), without_text=()):
    """Write the folder, photos inside; users like items of their own parity, two of which are held out."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        liked = rng.permutation(np.arange(user % 2, ITEMS, 2))
        rows += [(user, int(item), 1 if n == 0 else 2 if n == 1 else 0) for n, item in enumerate(liked[:8])]
    titles = [
        "" if i in without_text else f"{['Red', 'Blue'][i % 2]} kite number {i} {'big ' * (i % 3)}"
        for i in range(ITEMS)
    ]
    items = pl.DataFrame(
        {
            "id": [f"B{item:03d}" for item in range(ITEMS)],
            "title": titles,
            "text": titles,
            "image": [f"photos/{item}.png" for item in range(ITEMS)],
        }
    )
    users = pl.DataFrame({"id": [f"A{user:03d}" for user in range(USERS)]})
    table = pl.DataFrame(rows, schema=["user", "item", "split"], orient="row")
    write_prepared(folder, name="shop", rows=table, users=users, items=items)
    (folder / "photos").mkdir()
    for item in range(ITEMS):
        noise = rng.integers(0, 80, (32, 32, 3)) + np.array([150, 30, 30] if item % 2 else [30, 30, 150])
        if item not in without_photo:
            Image.fromarray(noise.astype(np.uint8)).save(folder / "photos" / f"{item}.png")
    return folder


def shop_config(folder, out, clip, **changes):
    """A config of both stages in seconds; `framework`, `model` and `train` may be changed, `around` goes round it."""
    framework = {
        "name": "ptmrec",
        "encoder": clip,
        "micro_batch": 32,
        "tuning": {"prompt_depth": 1, "num_prompts": 2},
        "first": {"batch_size": 64, "epochs": 3, "patience": 3},
        **changes.pop("framework", {}),
    }
    model = {"name": "freedom", "embedding_dim": 8, "k": 4, **changes.pop("model", {})}
    if model["name"] not in ("freedom", "mgcn"):
        model.pop("k")
    train = {"epochs": 2, "batch_size": 80, "learning_rate": 0.02, "monitor": "recall@5", "checkpoint_seconds": 0}
    raw = {
        "model": model,
        "framework": [framework, *changes.pop("around", ())],
        "data": {"name": str(folder)},
        "train": train | changes.pop("train", {}),
        "evaluate": {"top_k": [5]},
        "out": str(out),
        "device": "cpu",
        "threads": 1,
        "tensorboard": False,
    }
    return build_config(raw | changes)
