"""Small random CLIP models of open_clip's own class, and token ids as its tokenizer pads them."""

from __future__ import annotations

import torch

from mmfast.content.weights import need_package

SIZES = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 4},
}
VIT_B16 = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
SOT, EOT = 49406, 49407


def clip_model(seed: int = 0, **changes):
    """Return a frozen random model in evaluation mode whose biases and norms are random too."""
    need_package("open_clip", "CLIP towers")
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**{**SIZES, **changes}).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and "embedding" not in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif parameter.dim() == 2 and ("in_proj" in name or "mlp" in name or "out_proj" in name):
            parameter.mul_(2)
    return model


def meta_vit_b16():
    """Return ViT-B/16 without memory: its shapes alone."""
    need_package("open_clip", "CLIP towers")
    import open_clip

    with torch.device("meta"):
        return open_clip.CLIP(**VIT_B16)


def token_ids(*lengths: int, seed: int = 0) -> torch.Tensor:
    """Return ids int64 [B, 77] of texts of so many words, between the start and the end token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), 77, dtype=torch.int64)
    for row, length in enumerate(lengths):
        words = torch.randint(300, 40000, (length,), generator=generator).tolist()
        ids[row, : length + 2] = torch.tensor([SOT, *words, EOT])
    return ids
