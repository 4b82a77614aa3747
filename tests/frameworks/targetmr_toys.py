"""Encoded objects of a few items, with a label file, for tests that need no photos, parsers or encoders."""

from __future__ import annotations

import torch

from mmfast.frameworks.targetmr.objects import ItemObjects
from mmfast.frameworks.targetmr.ragged import Ragged, offsets
from mmfast.frameworks.targetmr.select import TextVectors

DIM = 6


def toy_objects(num_items: int, seed: int = 0, text: bool = True, image: bool = True, dim: int = DIM) -> ItemObjects:
    """Items of two kinds by parity; object 0 of a text is the target, item 3 has no photo, item 5 no text."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(2, dim, generator=generator)
    words = torch.randint(1, 5, (num_items,), generator=generator) * text
    masks = torch.randint(1, 4, (num_items,), generator=generator) * image
    words[5] = masks[3] = 0

    def rows(counts):
        ptr, own = offsets(counts), torch.arange(num_items).repeat_interleave(counts)
        values = torch.randn(len(own), dim, generator=generator)
        first = torch.zeros(len(own), dtype=torch.bool)
        first[ptr[:-1][counts > 0]] = True
        values[first] = kinds[own[first] % 2] + 0.2 * values[first]
        return values, ptr

    (contexts, ptr), (seen, mask_ptr) = rows(words), rows(masks)
    position = torch.arange(len(contexts)) - ptr[:-1].repeat_interleave(words) + 1
    positions = torch.randn(77, dim, generator=generator)
    has_text, has_photo = words > 0, masks > 0
    texts = torch.randn(num_items, dim, generator=generator) * has_text[:, None]
    photos = torch.randn(num_items, dim, generator=generator) * has_photo[:, None]
    vectors = TextVectors(texts, 0.1 * contexts, contexts, position, positions, ptr)
    return ItemObjects(vectors, Ragged(seen, mask_ptr), photos, has_text, has_photo, "toy")


def write_toys(folder, num_items: int, ids=None, **options) -> dict:
    """Write objects and labels; return the framework's settings that name them."""
    objects = toy_objects(num_items, **options)
    objects.save(folder / "objects.safetensors")
    ids = ids or [str(n) for n in range(num_items)]
    counts = objects.text.ptr.diff().tolist()
    rows = [f"{name},0" for name, count in zip(ids, counts, strict=True) if count > 1]
    (folder / "labels.csv").write_text("\n".join(["item,object_index", *rows]) + "\n")
    labels = {"by": "file", "file": str(folder / "labels.csv")}
    return {"name": "targetmr", "objects": {"file": str(folder / "objects.safetensors")}, "labels": labels, "eta": 0.3}
