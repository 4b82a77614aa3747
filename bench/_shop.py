"""A shop of a data set's shape on disk, made in a stream: interactions, titles and small photos; and a random CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch
from _common import Shape, power_law_edges
from PIL import Image

from mmfast.content.weights import need_package
from mmfast.data.prepared import write_prepared

WORDS = ("cable", "case", "mount", "lens", "charger", "speaker", "keyboard", "adapter", "camera", "headphones",
         "screen", "black", "white", "slim", "wireless", "portable", "digital", "compact", "pro", "mini")  # fmt: skip
PHOTOS_IN_A_FOLDER = 1000
PREPROCESS = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}


def write_shop(folder: Path, shape: Shape, num_pairs: int, side: int) -> None:
    """Write a prepared folder with `num_pairs` interactions, shape.num_edges of them for training, and its photos.

    A title has 3 to 8 words; a photo is side x side pixels of a few blocks of colour. Photos come one at a time.
    """
    users, items = power_law_edges(Shape(shape.num_users, shape.num_items, num_pairs))
    split = np.zeros(num_pairs, np.int8)
    held_out = (num_pairs - shape.num_edges) // 2
    order = np.random.default_rng(1).permutation(num_pairs)
    split[order[:held_out]], split[order[held_out : num_pairs - shape.num_edges]] = 1, 2
    rng = np.random.default_rng(2)
    titles = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(shape.num_items)]
    names = [f"photos/{item // PHOTOS_IN_A_FOLDER:03d}/{item}.png" for item in range(shape.num_items)]
    ids = pl.int_range(shape.num_items, eager=True).cast(pl.String)
    write_prepared(
        folder,
        name=folder.name,
        rows=pl.DataFrame({"user": users, "item": items, "split": split}),
        users=pl.DataFrame({"id": pl.int_range(shape.num_users, eager=True).cast(pl.String)}),
        items=pl.DataFrame({"id": ids, "title": titles, "image": names}),
    )
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(path)


def write_clip(folder: Path, sizes: dict) -> None:
    """Write a random CLIP of open_clip's class as a folder that `clip:FOLDER` names."""
    need_package("open_clip", "CLIP towers")
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = open_clip.CLIP(**sizes).state_dict()
    about = {"model_cfg": sizes, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "open_clip_model.safetensors")
