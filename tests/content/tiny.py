"""Models of a few thousand numbers, of the real classes and saved in the real formats, and a shop to encode."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import torch
from PIL import Image

from mmfast.content.encode_sentence import minilm_folder
from mmfast.content.torchvision_ops import prepare_torchvision
from mmfast.data.prepared import write_prepared

CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
COCA = {
    **CLIP,
    "custom_text": True,
    "vision_cfg": {**CLIP["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**CLIP["text_cfg"], "context_length": 76, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
BERT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def save_clip(folder, seed=0, file="open_clip_model.safetensors", config=CLIP):
    """Write an open_clip folder: config, weights (`file` also as a torch checkpoint), and nothing else."""
    prepare_torchvision()
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    built = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CLIP
    state = built(**{name: value for name, value in config.items() if name != "custom_text"}).state_dict()
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    if file.endswith(".safetensors"):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / file)
    else:
        torch.save({"state_dict": state}, folder / file)
    return folder


def save_sentence(folder, seed=0, pipeline=True, kind="Bert", dtype=torch.float32):
    """Write a sentence-transformers folder with MiniLM's tokenizer and pipeline, or a plain transformers one."""
    prepare_torchvision()
    import transformers

    source = minilm_folder()
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(vocab_size=30522, max_position_embeddings=64, **BERT)
    getattr(transformers, f"{kind}Model")(config).eval().to(dtype).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, folder / name)
    if pipeline:
        pooling = json.loads((source / "1_Pooling" / "config.json").read_text())
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(
            json.dumps({**pooling, "word_embedding_dimension": BERT["hidden_size"]})
        )
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": false}')
        shutil.copy(source / "modules.json", folder / "modules.json")
    return folder


def photo(seed, width=24, height=20):
    """A picture of noise over one colour, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 200, 3) + rng.integers(0, 55, (height, width, 3))).astype(np.uint8)


def write_shop(folder, num_items=20, titles=None):
    """Write a prepared folder of a few items with photos beside it, without features."""
    photos = folder.with_name(f"{folder.name}-photos")
    photos.mkdir(parents=True)
    for item in range(num_items):
        Image.fromarray(photo(item)).save(photos / f"{item}.png")
    titles = titles or [f"Kite {item % 7}" for item in range(num_items)]
    items = pl.DataFrame(
        {
            "id": [f"B{item:03d}" for item in range(num_items)],
            "title": titles,
            "text": [f"It is number {item % 11} and flies{' high' * (item % 3)}." for item in range(num_items)],
            "image": [f"{item}.png" for item in range(num_items)],
        }
    )
    rows = pl.DataFrame({"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 1, 2, 3], "split": [0, 1, 2, 0, 1, 2]})
    users = pl.DataFrame({"id": ["u", "v"]})
    write_prepared(folder, name="shop", rows=rows, users=users, items=items)
    return folder, photos


def with_items(folder, change):
    """Change columns of a prepared folder's items, as preparing changed data again would."""
    pl.read_parquet(folder / "items.parquet").with_columns(change).write_parquet(folder / "items.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["items.parquet"]["bytes"] = (folder / "items.parquet").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def cached_on_hub(cache, repository, folder):
    """Put a folder into a cache of Hugging Face as a download of a repository leaves it there; return the snapshot."""
    root = cache / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    return shutil.copytree(folder, root / "snapshots" / commit)
