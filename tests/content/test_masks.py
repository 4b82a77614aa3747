"""Masks: run lengths there and back, COCO's order, the ragged table, and pictures of single objects."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmfast.content.masks import Masks, join_masks, object_pictures
from mmfast.content.rle import decode_runs, encode_runs, runs_area
from mmfast.errors import MmfastError


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (13, 1), (5, 8), (31, 17)])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_runs_there_and_back(shape, density):
    mask = np.random.default_rng(3).random(shape) < density
    runs = encode_runs(mask)
    np.testing.assert_array_equal(decode_runs(runs, shape), mask)
    assert (runs[1:] > 0).all()
    assert runs_area(runs) == mask.sum()


def test_runs_are_in_the_order_of_segment_anything():
    import torch

    from mmfast.content.torchvision_ops import prepare_torchvision

    prepare_torchvision()
    from segment_anything.utils.amg import mask_to_rle_pytorch

    masks = np.random.default_rng(1).random((6, 9, 5)) < 0.4
    for mask, theirs in zip(masks, mask_to_rle_pytorch(torch.from_numpy(masks)), strict=True):
        assert encode_runs(mask).tolist() == theirs["counts"]


def test_wrong_runs_are_refused():
    with pytest.raises(MmfastError, match="cover 7 pixels, not 2 x 4 = 8"):
        decode_runs([3, 4], (2, 4))
    with pytest.raises(MmfastError, match="want \\[H, W\\]"):
        encode_runs(np.zeros((2, 2, 2), bool))


def entry(*masks, size=(4, 6)):
    runs = [encode_runs(mask) for mask in masks]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in runs])])
    return {"size": np.array(size), "offsets": offsets, "runs": np.concatenate([np.zeros(0, np.uint32), *runs])}


def test_a_table_of_items_with_two_masks_none_and_no_photo(tmp_path):
    first, second = np.eye(4, 6, dtype=bool), np.ones((4, 6), bool)
    second[0] = False
    table = join_masks([entry(second, first), None, entry(size=(3, 5)), entry(first)], {1: "it is lost"})
    table.save(tmp_path / "masks")
    for masks in (table, Masks.load(tmp_path / "masks")):
        assert masks.offsets.tolist() == [0, 2, 2, 3, 4]
        np.testing.assert_array_equal(masks.of(0), [second, first])
        assert masks.of(1).shape == (0, 0, 0)
        np.testing.assert_array_equal(masks.of(2), np.ones((1, 3, 5), bool))
        np.testing.assert_array_equal(masks.of(3), [first])
        assert masks.missing == {1: "it is lost"}
        assert masks.counts() == {"items": 2, "whole_photo": 1, "missing": 1, "masks": 4}


def test_pictures_of_objects_keep_their_pixels_only():
    pixels = np.random.default_rng(0).integers(1, 255, (4, 6, 3), np.uint8)
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 1:3, 2:5] = True
    photo = Image.fromarray(pixels)
    (black,) = object_pictures(photo, mask)
    np.testing.assert_array_equal(np.asarray(black), np.where(mask[0][..., None], pixels, 0))
    (mean,) = object_pictures(photo, mask, fill="mean")
    np.testing.assert_array_equal(np.asarray(mean)[0, 0], np.rint(pixels.reshape(-1, 3).mean(axis=0)))
    (cropped,) = object_pictures(photo, mask, crop=True)
    np.testing.assert_array_equal(np.asarray(cropped), pixels[1:3, 2:5])
    (large,) = object_pictures(photo.resize((12, 8)), mask)
    assert (np.asarray(large).any(axis=2) == mask[0].repeat(2, 0).repeat(2, 1)).all()
    with pytest.raises(MmfastError, match="empty mask"):
        object_pictures(photo, np.zeros((1, 4, 6), bool), crop=True)
    with pytest.raises(MmfastError, match=r"\[4, 6\]; want"):
        object_pictures(photo, mask[0])
