"""PTMRec without data on disk: a random CLIP, random pictures and texts, interactions of a data set's shape.

`plain_rows` is CLIP with prompts as it is written down: every triple's items, 77 columns of text, prompts as tokens of
every item, whole blocks of open_clip.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from _common import shapes
from _data import power_law_dataset

from mmfast.content.weights import need_package
from mmfast.data.sampler import Batch, Sampler
from mmfast.frameworks.base import Framework
from mmfast.frameworks.ptmrec.config import PTMRecConfig
from mmfast.frameworks.ptmrec.encoder import ItemEncoder
from mmfast.frameworks.ptmrec.framework import PTMRec
from mmfast.frameworks.ptmrec.inputs import ImageInputs, TextInputs
from mmfast.registry import MODELS

MODELS_OF_CLIP = {
    "vit-b16": {
        "embed_dim": 512,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "small": {
        "embed_dim": 64,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": 9, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 9},
    },
}
PICTURES = 64  # different ones; items share them, which changes no time
SOT, EOT = 49406, 49407


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what both benchmarks of PTMRec are asked."""
    parser.add_argument("--clip", choices=MODELS_OF_CLIP, default="vit-b16")
    parser.add_argument("--model", default="freedom")
    parser.add_argument("--shape", choices=shapes, default="baby")
    parser.add_argument("--micro-batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, nargs=2, default=(12, 77), help="shortest and longest text, uniform")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")


def text_ids(count: int, shortest: int, longest: int) -> TextInputs:
    """Return random token ids of texts whose lengths are uniform."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest + 1, count)
    tokens = rng.integers(300, 40_000, (count, 77)).astype(np.int32)
    tokens[:, 0] = SOT
    tokens[np.arange(77) >= lengths[:, None]] = 0
    tokens[np.arange(count), lengths - 1] = EOT
    return TextInputs(tokens, lengths)


def stage_2(chosen: argparse.Namespace, **tuning: object) -> tuple[PTMRec, Batch]:
    """Return PTMRec before a step of stage 2, and a micro-batch."""
    need_package("open_clip", "CLIP towers")
    import open_clip

    torch.manual_seed(0)
    sizes = MODELS_OF_CLIP[chosen.clip]
    clip = open_clip.CLIP(**sizes).to(getattr(torch, chosen.precision))
    dataset = power_law_dataset(chosen.shape, dict.fromkeys(("image", "text"), sizes["embed_dim"]))
    side = sizes["vision_cfg"]["image_size"]
    pixels = np.random.default_rng(1).integers(0, 256, (PICTURES, 3, side, side), dtype=np.uint8)
    inputs = {
        "image": ImageInputs(pixels, np.arange(dataset.num_items) % PICTURES, (0.5,) * 3, (0.25,) * 3),
        "text": text_ids(dataset.num_items, *chosen.tokens),
    }
    config = PTMRecConfig(name="ptmrec", tuning=tuning, micro_batch=chosen.micro_batch, precision=chosen.precision)
    entry = MODELS.get(chosen.model)
    generator = torch.Generator().manual_seed(0)
    made = PTMRec(Framework(entry(entry.Config(name=chosen.model), dataset, generator)), config)
    made.encoder = ItemEncoder(clip, inputs, torch.device(chosen.device), remember=not chosen.recompute)
    made._add_parameters(generator)
    made.to(chosen.device).on_epoch_start(0, generator)
    batch = next(Sampler(dataset, chosen.micro_batch, seed=0).epoch(0))
    return made, batch.to(chosen.device)


def plain_rows(made: PTMRec, modality: str, items: np.ndarray) -> torch.Tensor:
    """Return features [n, F] of items as often as they are named, prompts among the tokens of each."""
    clip, prompts = made.encoder.clip, made.tuning[modality].prompts.to(made.encoder.clip.transformer.get_cast_dtype())
    count, inputs = prompts.shape[1], made.encoder.inputs[modality]
    if modality == "image":
        visual = clip.visual
        x = visual._embeds(inputs.batch(items, made.encoder.device).to(prompts.dtype))
        x = torch.cat([x, visual.ln_pre(prompts[0]).expand(len(x), -1, -1)], 1)
        for number, block in enumerate(visual.transformer.resblocks):
            if 1 <= number < len(prompts):
                x = torch.cat([x[:, :-count], prompts[number].expand(len(x), -1, -1)], 1)
            x = block(x)
        return (visual.ln_post(x)[:, 0] @ visual.proj).float()
    tokens = torch.from_numpy(inputs.tokens[items].astype(np.int64)).to(made.encoder.device)
    x = (clip.token_embedding(tokens) + clip.positional_embedding).to(prompts.dtype)
    x = torch.cat([prompts[0].expand(len(x), -1, -1), x], 1)
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
    for number, block in enumerate(clip.transformer.resblocks):
        if 1 <= number < len(prompts):
            x = torch.cat([prompts[number].expand(len(x), -1, -1), x[:, count:]], 1)
        x = block(x, attn_mask=mask)
    return (clip.ln_final(x)[torch.arange(len(x)), count + tokens.argmax(1)] @ clip.text_projection).float()
