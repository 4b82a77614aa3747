"""The towers' own forward against open_clip's, and with prompts, LoRA and adapters against the specification's text."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from mmfast.errors import MmfastError
from mmfast.frameworks.ptmrec.towers import check_clip, encode_images, encode_texts
from mmfast.frameworks.ptmrec.tuning import TuningConfig, build_tuning, untuned
from tests.frameworks.clips import SIZES, clip_model, meta_vit_b16, token_ids

VISION, TEXT = SIZES["vision_cfg"], SIZES["text_cfg"]
TEXTS = token_ids(3, 11, 6, 1, 75)
SHORT = token_ids(3, 11, 6, 1, 9)


@pytest.fixture(scope="module")
def clip():
    return clip_model()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tuning_of(clip, **options):
    """What is trained, moved away from its initial values, no two parts alike."""
    tuning = build_tuning(clip, TuningConfig(**options), torch.Generator().manual_seed(2))
    for number, parameter in enumerate(tuning.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    return tuning


def double(*things):
    return [copy.deepcopy(thing).double() for thing in things]


def literal_images(clip, prompts, pixels):
    """Eq. 7-8: behind the patches, before ln_pre for the first block, raw and in place of the last ones later."""
    visual, n = clip.visual, prompts.shape[1]
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, prompts[0].expand(len(x), -1, -1)], 1))
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        if 2 <= number <= len(prompts):
            x = torch.cat([x[:, :-n], prompts[number - 1].expand(len(x), -1, -1)], 1)
        x = block(x)
    return visual.ln_post(x)[:, 0] @ visual.proj


def literal_texts(clip, prompts, tokens):
    """Eq. 9-10: in front of the start token, without positions; a causal mask of the grown length."""
    n = prompts.shape[1]
    x = clip.token_embedding(tokens) + clip.positional_embedding[: tokens.shape[1]]
    x = torch.cat([prompts[0].expand(len(x), -1, -1), x], 1)
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1)
    for number, block in enumerate(clip.transformer.resblocks, start=1):
        if 2 <= number <= len(prompts):
            x = torch.cat([prompts[number - 1].expand(len(x), -1, -1), x[:, n:]], 1)
        x = block(x, attn_mask=mask)
    x = clip.ln_final(x)[torch.arange(len(x)), n + tokens.argmax(1)]
    return x @ clip.text_projection


def literal_texts_after_sot(clip, prompts, tokens):
    """MaPLe's place: the total length stays 77, prompts of the first block take positions 1..n."""
    n = prompts.shape[1]
    cut = tokens[:, : 77 - n].clone()
    for row, full in zip(cut, tokens, strict=True):
        if full.argmax() >= 77 - n:
            row[-1] = full.max()
    words = clip.token_embedding(cut)
    x = torch.cat([words[:, :1], prompts[0].expand(len(cut), -1, -1), words[:, 1:]], 1) + clip.positional_embedding
    for number, block in enumerate(clip.transformer.resblocks, start=1):
        if 2 <= number <= len(prompts):
            x = torch.cat([x[:, :1], prompts[number - 1].expand(len(x), -1, -1), x[:, 1 + n :]], 1)
        x = block(x, attn_mask=clip.attn_mask.to(x.dtype))
    x = clip.ln_final(x)[torch.arange(len(x)), n + cut.argmax(1)]
    return x @ clip.text_projection


def test_without_tuning_both_towers_are_open_clips(clip, pixels):
    nothing = untuned(clip)
    same_rows(encode_images(clip, nothing["image"], pixels), clip.encode_image(pixels))
    same_rows(encode_texts(clip, nothing["text"], TEXTS), clip.encode_text(TEXTS))
    same_rows(encode_texts(clip, nothing["text"], SHORT), clip.encode_text(SHORT))


def same_rows(got, want):
    """Compare rows to 1e-6 of their lengths: float32 sums in another order, which another CPU rounds otherwise."""
    assert got.shape == want.shape and ((got - want).norm(dim=1) <= 1e-6 * want.norm(dim=1)).all()


EXACT = {"rtol": 1e-5, "atol": 1e-5}  # features are float32, of literal ones in float64


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 3])
def test_prompts_are_maples_without_coupling(clip, pixels, depth, count):
    tuning = tuning_of(clip, num_prompts=count, prompt_depth=depth)
    wide, prompts = double(clip, tuning)
    cases = (
        (encode_images(clip, tuning["image"], pixels), literal_images(wide, prompts["image"].prompts, pixels.double())),
        (encode_texts(clip, tuning["text"], TEXTS), literal_texts(wide, prompts["text"].prompts, TEXTS)),
        (encode_texts(clip, tuning["text"], SHORT), literal_texts(wide, prompts["text"].prompts, SHORT)),
        (
            encode_texts(clip, tuning["text"], TEXTS, after_sot=True),
            literal_texts_after_sot(wide, prompts["text"].prompts, TEXTS),
        ),
        (
            encode_texts(clip, tuning["text"], SHORT, after_sot=True),
            literal_texts_after_sot(wide, prompts["text"].prompts, SHORT),
        ),
    )
    for ours, literal in cases:
        torch.testing.assert_close(ours, literal.float(), **EXACT)


@pytest.mark.parametrize("remember", [True, False], ids=["kept", "run again"])
def test_gradients_of_prompts_are_those_of_the_literal_forward(clip, pixels, remember):
    tuning = tuning_of(clip, prompt_depth=3)
    wide, prompts = double(clip, tuning)
    ours = encode_images(clip, tuning["image"], pixels, remember).square().sum()
    ours = ours + encode_texts(clip, tuning["text"], TEXTS, remember=remember).square().sum()
    literal = literal_images(wide, prompts["image"].prompts, pixels.double()).square().sum()
    literal = literal + literal_texts(wide, prompts["text"].prompts, TEXTS).square().sum()
    ours.backward()
    literal.backward()
    for tower in ("image", "text"):
        wanted = prompts[tower].prompts.grad.float()
        torch.testing.assert_close(tuning[tower].prompts.grad, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_lora_is_a_change_of_the_weights_of_query_and_value(clip, pixels):
    tuning = tuning_of(clip, method="lora", lora_rank=3)
    changed = copy.deepcopy(clip)
    for tower, transformer in (("image", changed.visual.transformer), ("text", changed.transformer)):
        for block, change in zip(transformer.resblocks, tuning[tower].changes, strict=True):
            width = block.attn.embed_dim
            block.attn.in_proj_weight[:width] += (change.up[0] @ change.down[0]).detach()
            block.attn.in_proj_weight[2 * width :] += (change.up[1] @ change.down[1]).detach()
    torch.testing.assert_close(encode_images(clip, tuning["image"], pixels), changed.encode_image(pixels), **EXACT)
    torch.testing.assert_close(encode_texts(clip, tuning["text"], TEXTS), changed.encode_text(TEXTS), **EXACT)


def test_adapters_stand_after_attention_and_mlp(clip, pixels):
    tuning = tuning_of(clip, method="adapter")

    def adapted(parts, x):
        return x + F.linear(F.gelu(F.linear(x, parts.down, parts.down_bias)), parts.up, parts.up_bias)

    def literal(transformer, changes, x, mask=None):
        for block, change in zip(transformer.resblocks, changes, strict=True):
            normed = block.ln_1(x)
            x = x + adapted(change.attention, block.attn(normed, normed, normed, attn_mask=mask)[0])
            x = x + adapted(change.mlp, block.mlp(block.ln_2(x)))
        return x

    visual = clip.visual
    images = visual.ln_post(literal(visual.transformer, tuning["image"].changes, visual._embeds(pixels)))[:, 0]
    words = clip.token_embedding(TEXTS) + clip.positional_embedding
    texts = clip.ln_final(literal(clip.transformer, tuning["text"].changes, words, clip.attn_mask))
    texts = texts[torch.arange(len(TEXTS)), TEXTS.argmax(1)]
    torch.testing.assert_close(encode_images(clip, tuning["image"], pixels), images @ visual.proj, **EXACT)
    torch.testing.assert_close(encode_texts(clip, tuning["text"], TEXTS), texts @ clip.text_projection, **EXACT)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_lora_and_adapters_start_at_clip(clip, pixels, method):
    tuning = build_tuning(clip, TuningConfig(method=method), torch.Generator().manual_seed(0))
    same_rows(encode_images(clip, tuning["image"], pixels), clip.encode_image(pixels))
    same_rows(encode_texts(clip, tuning["text"], TEXTS), clip.encode_text(TEXTS))


@pytest.mark.parametrize("after_sot", [False, True])
def test_nothing_leaks_through_the_causal_mask(clip, after_sot):
    """What stands behind the end token, and other texts, change nothing; every prompt and every word does."""
    tuning = tuning_of(clip, prompt_depth=3)["text"]
    tokens = token_ids(8, 5)
    base = encode_texts(clip, tuning, tokens, after_sot)
    behind = tokens.clone()
    behind[:, 20:] = torch.randint(1, 1000, (57,))
    torch.testing.assert_close(encode_texts(clip, tuning, behind, after_sot), base, rtol=0, atol=0)
    alone = encode_texts(clip, tuning, tokens[1:], after_sot)
    torch.testing.assert_close(alone, base[1:], **EXACT)
    for place in range(1, 9):
        other = tokens.clone()
        other[0, place] += 1
        changed = encode_texts(clip, tuning, other, after_sot)
        assert not torch.allclose(changed[0], base[0], atol=1e-6) and torch.equal(changed[1], base[1])


def test_half_precision_keeps_prompts_in_float32(clip, pixels):
    half = copy.deepcopy(clip).bfloat16()
    tuning = tuning_of(clip, prompt_depth=3)
    for ours, full in (
        (encode_images(half, tuning["image"], pixels), encode_images(clip, tuning["image"], pixels)),
        (encode_texts(half, tuning["text"], TEXTS), encode_texts(clip, tuning["text"], TEXTS)),
    ):
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(ours, full).min() > 0.99
        ours.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in tuning.parameters())


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_vit_b16_are_those_of_table_2():
    clip = meta_vit_b16()
    generator = torch.Generator()
    sizes = {
        method: count(build_tuning(clip, TuningConfig(method=method), generator))
        for method in ("prompt", "lora", "adapter")
    }
    assert sizes == {"prompt": 23_040, "lora": 983_040, "adapter": 10_262_016}
    assert count(build_tuning(clip, TuningConfig(num_prompts=8, prompt_depth=12), generator)) == 12 * 8 * (768 + 512)
    assert round(count(clip) / 1e6, 2) == 149.62
    recommenders = (8.98, 22.32, 27.65)  # FREEDOM on Baby, Sports, Clothing, in millions
    cells = {method: [round(r + (149.62 if method != "prompt" else 0) + size / 1e6) for r in recommenders]
             for method, size in sizes.items()}  # fmt: skip
    assert cells == {"prompt": [9, 22, 28], "lora": [160, 173, 178], "adapter": [169, 182, 188]}


def test_models_that_cannot_take_prompts_are_refused(clip):
    import open_clip

    check_clip(clip)
    cases = [
        ({"vision_cfg": {**VISION, "pool_type": "avg"}}, "does not read its class token"),
        ({"vision_cfg": {**VISION, "qk_norm": True}}, "the image tower is made of CustomResidualAttentionBlock"),
        ({"text_cfg": {**TEXT, "no_causal_mask": True}}, "the text tower is not causal"),
        ({"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}, "image tower is a ModifiedResNet"),
    ]
    for changes, reason in cases:
        with pytest.raises(MmfastError, match=f"prompts cannot be put into this model.*{reason}"):
            check_clip(clip_model(**changes))
    custom = open_clip.CustomTextCLIP(**SIZES)
    with pytest.raises(MmfastError, match="it is a CustomTextCLIP"):
        check_clip(custom)
    with pytest.raises(MmfastError, match="prompt_depth is 5 but CLIP's image tower has 4 blocks"):
        build_tuning(clip, TuningConfig(prompt_depth=5), torch.Generator())
