"""Masks of photos: the light segmenter, every kind of file, the store, and what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmfast.content.images import Pictures, hash_picture
from mmfast.content.segment import KIND, segment
from mmfast.content.segment_light import LightSegmenter, foreground, light_masks
from mmfast.content.store import Store
from mmfast.data.demo import decode_mask, demo_folder, demo_truth
from mmfast.errors import MmfastError

SAMPLE = 60


def drawn(size=(96, 80)):
    """A red disc and a blue square on a grey wall over a darker floor, and the masks of both."""
    photo = Image.new("RGB", size, (206, 206, 210))
    draw = ImageDraw.Draw(photo)
    draw.rectangle((0, 60, size[0], size[1]), fill=(150, 146, 140))
    draw.ellipse((12, 20, 44, 64), fill=(190, 30, 30))
    draw.rectangle((60, 40, 84, 66), fill=(30, 60, 170))
    pixels = np.asarray(photo)
    return photo, [(pixels == colour).all(axis=2) for colour in ((190, 30, 30), (30, 60, 170))]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def listed(paths):
    return Pictures(list(paths), hashes=[None if path is None else hash_picture(path) for path in paths])


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("offsets", "runs", "size", "whole"))


def test_two_things_on_a_wall_are_found():
    photo, truth = drawn()
    masks = light_masks(np.asarray(photo))
    for mask in truth:
        assert max(iou(mask, found) for found in masks) > 0.9
    areas = [mask.sum() for mask in masks]
    assert areas == sorted(areas, reverse=True)
    np.testing.assert_array_equal(masks, light_masks(np.asarray(photo)))


def test_a_soft_shadow_is_background():
    y, x = np.mgrid[:80, :96]
    shade = 1 - 0.35 * np.exp(-(((x - 48) / 26) ** 2) - ((y - 62) / 12) ** 2)
    photo = np.repeat((210 * shade)[..., None], 3, axis=2).astype(np.float32)
    assert not foreground(photo).any()
    photo[30:62, 36:60] = (180, 40, 40)
    found = foreground(photo)
    assert iou(found, (photo == (180, 40, 40)).all(axis=2)) > 0.85


@pytest.mark.parametrize("pixels", [np.full((40, 50, 3), 200, np.uint8), np.zeros((64, 64, 3), np.uint8)])
def test_a_plain_picture_has_no_objects(pixels):
    assert light_masks(pixels) == []


def test_noise_and_small_pictures_are_no_error():
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    assert all(mask.shape == (48, 40) for mask in light_masks(noise))
    (whole,) = light_masks(noise[:5])
    assert whole.all()
    assert light_masks(noise[:, :16]) is not None


@pytest.fixture
def photos(tmp_path):
    """One photo in several files and modes, and files that are none."""
    photo, _ = drawn()
    paths = {name: tmp_path / name for name in ("rgb.png", "grey.png", "rgba.png", "cmyk.jpg", "two.gif", "large.png")}
    photo.save(paths["rgb.png"])
    photo.convert("L").save(paths["grey.png"])
    photo.convert("RGBA").save(paths["rgba.png"])
    photo.convert("CMYK").save(paths["cmyk.jpg"], quality=95)
    photo.save(paths["two.gif"], save_all=True, append_images=[Image.new("RGB", photo.size)])
    photo.resize((960, 800)).save(paths["large.png"])
    paths["torn.png"] = tmp_path / "torn.png"
    paths["torn.png"].write_bytes(paths["rgb.png"].read_bytes()[:200])
    paths["note.jpg"] = tmp_path / "note.jpg"
    paths["note.jpg"].write_text("no photo")
    return paths


def test_every_kind_of_file(photos, tmp_path):
    paths = [*photos.values(), None, photos["rgb.png"]]
    pictures = listed(paths)
    pictures.problems[8] = "the items table names no picture"
    masks = segment(pictures, LightSegmenter(), store=Store(tmp_path / "store"))
    _, truth = drawn()
    for item in (0, 1, 2, 3, 4, 9):
        found = masks.of(item)
        assert found.shape[1:] == (80, 96)
        assert max(iou(truth[0], mask) for mask in found) > 0.85, paths[item]
    assert masks.size[5].tolist() == [107, 128]
    assert sorted(masks.missing) == [6, 7, 8]
    assert "cannot be decoded" in masks.missing[6]
    assert "no picture" in masks.missing[7]
    assert masks.of(7).shape == (0, 0, 0)
    assert masks.counts()["missing"] == 3


def test_the_largest_z_are_kept_and_other_z_compute_nothing(photos, tmp_path, monkeypatch):
    store, pictures = Store(tmp_path / "store"), listed([photos["rgb.png"], photos["torn.png"]])
    five = segment(pictures, masks=5, store=store)
    monkeypatch.setattr(
        "mmfast.content.segment._compute", lambda segmenter, jobs, *rest: iter(()) if not jobs else 1 / 0
    )
    two = segment(pictures, masks=2, store=store)
    np.testing.assert_array_equal(two.of(0), five.of(0)[:2])
    assert two.missing == five.missing
    for wrong in (0, 9):
        with pytest.raises(MmfastError, match=f"masks={wrong}; want 1..8"):
            segment(pictures, masks=wrong, store=store)


def test_a_photo_without_objects_is_its_own_mask(tmp_path):
    Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
    masks = segment(listed([tmp_path / "white.png"]), store=Store(tmp_path / "store"))
    assert masks.whole.tolist() == [True]
    assert masks.of(0).all() and masks.of(0).shape == (1, 30, 40)


def test_settings_are_part_of_the_key_and_processes_are_not(photos, tmp_path):
    store, pictures = Store(tmp_path / "store"), listed([photos["rgb.png"], photos["grey.png"], photos["torn.png"]])
    one = segment(pictures, LightSegmenter(), store=store)
    two = segment(pictures, LightSegmenter(), processes=2, store=Store(tmp_path / "other"))
    assert same(one, two)
    assert one.missing == two.missing
    segment(pictures, LightSegmenter(superpixels=20), store=store)
    assert len(list(store.entries(KIND))) == 4


def test_a_run_that_is_cut_off_goes_on(photos, tmp_path, monkeypatch):
    pictures = listed([photos[name] for name in ("rgb.png", "grey.png", "cmyk.jpg", "large.png")])
    whole = segment(pictures, store=Store(tmp_path / "whole"))
    store, put, done = Store(tmp_path / "cut"), Store.put, []

    def put_twice(self, *arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments)
        put(self, *arguments)

    monkeypatch.setattr(Store, "put", put_twice)
    with pytest.raises(KeyboardInterrupt):
        segment(pictures, store=store)
    monkeypatch.setattr(Store, "put", put)
    assert len(list(store.entries(KIND))) == 2
    assert same(segment(pictures, store=store), whole)


def test_targets_of_the_demo_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path))
    folder = demo_folder(num_items=SAMPLE, num_users=5)
    truth = demo_truth(folder).filter("is_target").sort("item")
    masks = segment(listed([folder / "photos" / f"{item:05d}.png" for item in range(SAMPLE)]), store=Store(tmp_path))
    best = [max(iou(decode_mask(runs), mask) for mask in masks.of(item)) for item, runs in enumerate(truth["mask"])]
    assert np.mean(np.array(best) >= 0.7) >= 0.8


def test_masks_are_kept_under_the_releases_of_both_packages_they_stand_on(monkeypatch):
    monkeypatch.setattr("mmfast.content.segment_light.version", lambda package: f"of-{package}")
    assert LightSegmenter().identity() == "light-1:scikit-image-of-scikit-image:scipy-of-scipy"
