"""SAM through its real loading path, on a tiny random model of segment_anything's own modules saved as a checkpoint."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from mmfast.content.images import Pictures, hash_picture
from mmfast.content.segment import segment
from mmfast.content.segment_sam import SamSegmenter
from mmfast.content.store import Store
from mmfast.content.weights import need_package
from mmfast.errors import MmfastError

SIDE = 64
# A random model rates nothing highly; without thresholds its masks go through all of the later steps.
LOOSE = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 4, "points_per_batch": 8}
LOOSE |= {"box_nms_thresh": 1.0}


def build_tiny(checkpoint=None):
    """Return a Sam of 64-pixel pictures, as the builders of `sam_model_registry` do."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    dim = 32
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=2,
            embed_dim=32,
            img_size=SIDE,
            mlp_ratio=2,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=2,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=[1],
            window_size=2,
            out_chans=dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=dim, image_embedding_size=(4, 4), input_image_size=(SIDE, SIDE), mask_in_chans=4
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=32, num_heads=2),
            transformer_dim=dim,
            iou_head_depth=2,
            iou_head_hidden_dim=16,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    sam.eval()
    if checkpoint is not None:
        with open(checkpoint, "rb") as file:
            sam.load_state_dict(torch.load(file))
    return sam


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    need_package("segment_anything", "masks of SAM")
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", build_tiny)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.save(build_tiny().state_dict(), tmp_path / "sam.pth")
    return str(tmp_path / "sam.pth")


def settings(checkpoint, **changes):
    return SamSegmenter(model="vit_b", checkpoint=checkpoint, device="cpu", side=SIDE, **{**LOOSE, **changes})


def picture():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def test_masks_come_from_the_checkpoint_the_largest_first(checkpoint):
    masks = settings(checkpoint).load()(picture())
    assert len(masks) > 1
    assert {mask.shape for mask in masks} == {(48, 64)}
    areas = [int(mask.sum()) for mask in masks]
    assert areas == sorted(areas, reverse=True)
    np.testing.assert_array_equal(masks, settings(checkpoint).load()(picture()))


def test_options_reach_the_generator(checkpoint):
    assert settings(checkpoint, pred_iou_thresh=1e6).load()(picture()) == []
    many, few = (settings(checkpoint, box_nms_thresh=nms).load()(picture()) for nms in (1.0, 0.5))
    assert len(many) == 4 * 4 * 3 > len(few)


def test_crops_and_their_empty_list(checkpoint):
    assert len(settings(checkpoint, crop_n_layers=1).load()(picture())) > 0
    assert settings(checkpoint, crop_n_layers=1, pred_iou_thresh=1e6).load()(picture()) == []


def test_photos_through_the_store_once(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.fromarray(picture()).resize((128, 96)).save(path)
    pictures, store = Pictures([path], hashes=[hash_picture(path)]), Store(tmp_path / "store")
    first = segment(pictures, settings(checkpoint), masks=3, store=store)
    assert first.size.tolist() == [[48, 64]]
    assert first.of(0).shape == (3, 48, 64)
    none = segment(pictures, settings(checkpoint, pred_iou_thresh=1e6), store=store)
    assert none.whole.tolist() == [True]
    monkeypatch.setattr(SamSegmenter, "load", None)
    np.testing.assert_array_equal(segment(pictures, settings(checkpoint), masks=3, store=store).runs, first.runs)


def test_other_weights_are_another_key(checkpoint, tmp_path):
    before = settings(checkpoint).identity()
    torch.save(build_tiny().state_dict(), checkpoint)
    assert settings(checkpoint).identity() != before


def test_another_device_or_release_is_another_key(checkpoint, monkeypatch):
    before = settings(checkpoint).identity()
    release = ".".join(torch.__version__.split(".")[:2])
    assert before.endswith(f":segment-anything-1.0:torch-{release}:cpu")
    monkeypatch.setattr(torch, "__version__", "99.1.0")
    assert settings(checkpoint).identity() == before.replace(f"torch-{release}", "torch-99.1")
    monkeypatch.setattr("mmfast.content.segment_sam.pick_device", lambda name: torch.device("cuda:1"))
    assert settings(checkpoint).identity() == before.replace(f"torch-{release}:cpu", "torch-99.1:cuda")
    monkeypatch.setattr("mmfast.content.segment_sam.version", lambda name: "2.0")
    assert ":segment-anything-2.0:" in settings(checkpoint).identity()


def test_absent_weights_name_file_page_and_alternative(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path))
    with pytest.raises(MmfastError) as error:
        SamSegmenter().load()
    for part in ("sam_vit_h_4b8939.pth", str(tmp_path / "weights"), "github.com/facebookresearch", "light segmenter"):
        assert part in str(error.value)


def test_a_checkpoint_of_another_model_is_one_sentence(checkpoint):
    torch.save({"a": torch.zeros(2)}, checkpoint)
    with pytest.raises(MmfastError, match=r"SAM vit_b.*Error.*loading state_dict.*light segmenter"):
        settings(checkpoint).load()


def full(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_full_device_is_told(checkpoint, monkeypatch):
    from segment_anything import SamAutomaticMaskGenerator

    told = (
        "^SAM vit_b: the device has too little memory; choose a smaller points_per_batch, a smaller model or device=cpu"
    )
    monkeypatch.setattr(SamAutomaticMaskGenerator, "generate", full)
    masks_of = settings(checkpoint).load()
    with pytest.raises(MmfastError, match=told):
        masks_of(picture())
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(MmfastError, match=told):
        settings(checkpoint).load()


def test_small_regions_need_opencv(checkpoint, monkeypatch):
    monkeypatch.setattr("mmfast.content.segment_sam.find_spec", lambda name: None)
    with pytest.raises(MmfastError, match="needs OpenCV"):
        settings(checkpoint, min_mask_region_area=10).load()
