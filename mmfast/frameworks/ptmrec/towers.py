"""CLIP's two towers run block by block with prompts, low-rank changes or adapters inside (PTMRec, Eq. 3-10).

The numbers are those of prompts placed among the tokens of every item. What is the same for all items is computed once:
text prompts stand in front under a causal mask, so their states are shared; outputs that the next prompts replace, or
that nothing reads, are not computed at all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mmfast.errors import MmfastError
from mmfast.frameworks.ptmrec.tuning import BlockChange, TowerTuning

QUICK = 1.702  # of QuickGELU, x sigmoid(s x)


def check_clip(model: Any) -> None:
    """Raise MmfastError, with the reason, for a model whose towers cannot take prompts; want open_clip's `CLIP`."""
    kind = type(model).__name__
    if kind != "CLIP" or type(getattr(model, "visual", None)).__name__ != "VisionTransformer":
        visual = type(getattr(model, "visual", None)).__name__
        raise _refused(f"it is a {kind} whose image tower is a {visual}")
    for name, tower in (("image", model.visual.transformer), ("text", model.transformer)):
        kinds = {type(block).__name__ for block in tower.resblocks}
        if kinds != {"ResidualAttentionBlock"} or not tower.batch_first:
            raise _refused(f"the {name} tower is made of {', '.join(sorted(kinds))}")
    if model.visual.attn_pool is not None or model.visual.pool_type != "tok":
        raise _refused("the image tower does not read its class token")
    if model.attn_mask is None or model.text_pool_type not in ("argmax", "eos"):
        raise _refused("the text tower is not causal, or does not read its end token")


def _refused(reason: str) -> MmfastError:
    return MmfastError(
        f"ptmrec: prompts cannot be put into this model: {reason}; choose an open_clip model of the class CLIP with a "
        "vision transformer, such as ViT-B-16-quickgelu"
    )


def encode_images(clip: Any, tuning: TowerTuning, pixels: torch.Tensor, remember: bool = True) -> torch.Tensor:
    """Return image features float32 [B, F], not normalised, of normalised pixels [B, 3, H, W] (Eq. 3, 4, 7, 8).

    remember=False keeps the input of every block alone for the gradient and runs the block again.

    >>> encode_images(clip, tuning["image"], pixels).shape  # doctest: +SKIP
    torch.Size([8, 512])
    """
    visual = clip.visual
    x = visual._embeds(pixels.to(visual.conv1.weight.dtype))
    blocks, depth = visual.transformer.resblocks, tuning.depth
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        context = None
        if number < depth:
            context = tuning.prompts[number].to(x.dtype)[None]
            context = visual.ln_pre(context) if number == 0 else context
            if number == depth - 1 and not last:  # their outputs go on
                x, context = torch.cat([x, context.expand(len(x), -1, -1)], 1), None
        wanted = torch.zeros(len(x), dtype=torch.int64, device=x.device) if last else None
        x = _block(block, tuning.changes[number], x, context, None, wanted, remember)
    return (visual.ln_post(x[:, 0]) @ visual.proj if visual.proj is not None else visual.ln_post(x[:, 0])).float()


def encode_texts(
    clip: Any, tuning: TowerTuning, tokens: torch.Tensor, after_sot: bool = False, remember: bool = True
) -> torch.Tensor:
    """Return text features float32 [B, F], not normalised, of token ids [B, T] (Eq. 5, 6, 9, 10).

    T is at most the model's length; columns behind the longest text are cut. after_sot puts the prompts behind the
    start token, which shortens texts by their number. The feature is that of the end token.
    """
    tokens = tokens.long()
    lead = 1 if after_sot and tuning.depth else 0
    if lead:
        tokens = _shortened(clip, tokens, clip.context_length - tuning.prompts.shape[1])
    ends = _ends(clip, tokens)
    tokens = tokens[:, : int(ends.max()) + 1]
    dtype = clip.transformer.get_cast_dtype()
    x = clip.token_embedding(tokens).to(dtype)
    context, x = _text_start(clip, tuning, x, lead)
    mask = _causal(0 if context is None else context.shape[1], x.shape[1], x.device)
    blocks = clip.transformer.resblocks
    for number, block in enumerate(blocks):
        if number and number < tuning.depth:
            context = torch.cat([context[:, :lead], tuning.prompts[number].to(dtype)[None]], 1)
        last = number == len(blocks) - 1
        change = tuning.changes[number]
        x = _block(block, change, x, context, mask, ends - lead if last else None, remember)
        if context is not None and not last and (number >= tuning.depth - 1 or lead):
            own = _causal(0, context.shape[1], x.device)
            context = _block(block, change, context, None, own, None, remember)
    x = clip.ln_final(x[:, 0])
    projection = clip.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection
    return x.float()


def _text_start(clip: Any, tuning: TowerTuning, x: torch.Tensor, lead: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return what all texts begin with, [1, n, D], and the tokens of each, with their positions."""
    positions = clip.positional_embedding.to(x.dtype)
    if not tuning.depth:
        return None, x + positions[: x.shape[1]]
    context = tuning.prompts[0].to(x.dtype)[None]
    if not lead:
        return context, x + positions[: x.shape[1]]
    count = context.shape[1]
    # Every text begins with the start token.
    context = torch.cat([x[:1, :1], context], 1) + positions[: 1 + count]
    return context, x[:, 1:] + positions[1 + count : count + x.shape[1]]


def _ends(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the position of the end token of every text, [B]."""
    return tokens.argmax(1) if clip.text_pool_type == "argmax" else (tokens == clip.text_eos_id).int().argmax(1)


def _shortened(clip: Any, tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Return token ids [B, <= length]; a text that is longer keeps its end token."""
    ends = tokens.gather(1, _ends(clip, tokens)[:, None])
    long = _ends(clip, tokens) >= length
    tokens = tokens[:, :length].clone()
    tokens[long, -1] = ends[long, 0]
    return tokens


def _causal(shared: int, length: int, device: torch.device) -> torch.Tensor:
    """Return which of `shared` + `length` tokens each of the last `length` sees, bool [length, shared + length]."""
    return torch.ones(length, shared + length, dtype=torch.bool, device=device).tril(shared)


def _block(
    block: Any,
    change: BlockChange,
    x: torch.Tensor,
    context: torch.Tensor | None,
    mask: torch.Tensor | None,
    wanted: torch.Tensor | None,
    remember: bool,
) -> torch.Tensor:
    if remember or not torch.is_grad_enabled():
        return run_block(block, change, x, context, mask, wanted)
    return checkpoint(run_block, block, change, x, context, mask, wanted, use_reentrant=False)


def run_block(
    block: Any,
    change: BlockChange,
    x: torch.Tensor,
    context: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    wanted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the outputs [B, L, D] of a block for tokens x [B, L, D] that see themselves and `context` [1, n, D].

    mask: bool [L, n + L], what each token sees, the context first; None: everything. wanted int64 [B]: of every item
    the output of this token alone, [B, 1, D].
    """
    attention, normed = block.attn, block.ln_1(x)
    width = x.shape[2]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    # Of a context and of unwanted tokens only keys and values are needed.
    if wanted is None:
        query, key, value = F.linear(normed, weight, bias).chunk(3, 2)
        asking = normed
    else:
        key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, 2)
        x, asking = (t.gather(1, wanted[:, None, None].expand(-1, 1, width)) for t in (x, normed))
        query = F.linear(asking, weight[:width], bias[:width])
        mask = None if mask is None else mask[wanted][:, None, None]
    query, value = _plus(query, change.query(asking)), _plus(value, change.value(normed))
    if context is not None:
        shared = block.ln_1(context)
        first_key, first_value = F.linear(shared, weight[width:], bias[width:]).chunk(2, 2)
        first_value = _plus(first_value, change.value(shared))
        key = torch.cat([first_key.expand(len(x), -1, -1), key], 1)
        value = torch.cat([first_value.expand(len(x), -1, -1), value], 1)
    query, key, value = (t.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for t in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
    x = x + change.after_attention(block.ls_1(attention.out_proj(mixed)))
    return x + change.after_mlp(block.ls_2(_mlp(block.mlp, block.ln_2(x))))


def _mlp(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """Return the MLP of x, QuickGELU as silu(s x) / s: one tensor of its width is kept for the gradient, not three."""
    if type(mlp.gelu).__name__ != "QuickGELU":
        return mlp(x)
    hidden = F.silu(mlp.c_fc(x).mul_(QUICK))
    return F.linear(hidden, mlp.c_proj.weight) / QUICK + mlp.c_proj.bias


def _plus(x: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
    return x if added is None else x + added
