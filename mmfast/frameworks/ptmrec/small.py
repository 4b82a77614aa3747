"""A tiny CLIP trained on a catalogue's own photo-text pairs, for runs without a download and on a CPU.

It knows nothing but the catalogue: what it is good for is to try PTMRec from end to end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from mmfast.content.weights import need_package
from mmfast.data.cache import cache_root
from mmfast.data.hashing import hash_json
from mmfast.data.storage import new_folder
from mmfast.frameworks.ptmrec.inputs import image_inputs, text_inputs
from mmfast.frameworks.ptmrec.towers import encode_images, encode_texts
from mmfast.frameworks.ptmrec.tuning import untuned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmfast.content.images import Pictures

MODEL = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"}
TRAINING = {"epochs": 30, "batch_size": 128, "learning_rate": 2e-3, "held_out": 0.1, "seed": 0}


def small_clip(pictures: Pictures, texts: Sequence[str]) -> Path:
    """Return an open_clip folder (config, weights, retrieval.json), trained in about a minute when it is not there yet.

    retrieval.json says how often the right one of the held-out texts is nearest to a held-out photo.
    """
    need_package("open_clip", "CLIP models")
    key = hash_json([MODEL, PREPROCESS, TRAINING, pictures.hashes, list(texts)])
    folder = cache_root() / "ptmrec" / f"small-{key[:24]}"
    if not folder.is_dir():
        with new_folder(folder, keep_existing=True) as work, torch.random.fork_rng():
            _train(pictures, texts, work)
    return folder


def _train(pictures: Pictures, texts: Sequence[str], work: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(TRAINING["seed"])
    model = open_clip.CLIP(**MODEL)
    transform = open_clip.image_transform(MODEL["vision_cfg"]["image_size"], is_train=False, mean=PREPROCESS["mean"],
                                          std=PREPROCESS["std"])  # fmt: skip
    images = image_inputs(pictures, transform)
    tokens = text_inputs(texts, open_clip.SimpleTokenizer())
    items = torch.from_numpy((images.known & tokens.known).nonzero()[0])
    items = items[torch.randperm(len(items))]
    held_out = items[: int(TRAINING["held_out"] * len(items))]
    _fit(model, items[len(held_out) :], images, tokens)
    found = _retrieval(model, held_out, images, tokens) if len(held_out) else None
    about = {"training": TRAINING, "held_out_pairs": len(held_out), "top1": found}
    (work / "retrieval.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (work / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, work / "open_clip_model.safetensors")


def _fit(model: Any, items: torch.Tensor, images: Any, tokens: Any) -> None:
    """Contrast photos with texts, both ways, in batches of pairs."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRAINING["learning_rate"], weight_decay=0.01)
    steps = TRAINING["epochs"] * max(1, -(-len(items) // TRAINING["batch_size"]))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, TRAINING["learning_rate"], total_steps=steps)
    for batch in _batches(items, steps):
        loss_target = torch.arange(len(batch))
        image, text = _vectors(model, batch, images, tokens)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.t()
        loss = F.cross_entropy(logits, loss_target) + F.cross_entropy(logits.t(), loss_target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _batches(items: torch.Tensor, steps: int) -> Iterator[torch.Tensor]:
    done = 0
    while done < steps:
        for batch in items[torch.randperm(len(items))].split(TRAINING["batch_size"]):
            if done < steps:
                yield batch
            done += 1


def _vectors(model: Any, batch: torch.Tensor, images: Any, tokens: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit vectors [B, F] of photos and of texts."""
    cpu, rows, nothing = torch.device("cpu"), batch.numpy(), untuned(model)
    image = encode_images(model, nothing["image"], images.batch(rows, cpu))
    text = encode_texts(model, nothing["text"], tokens.batch(rows, cpu))
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


@torch.no_grad()
def _retrieval(model: Any, items: torch.Tensor, images: Any, tokens: Any) -> float:
    image, text = _vectors(model, items, images, tokens)
    return float(((image @ text.t()).argmax(1) == torch.arange(len(items))).float().mean())
