"""Pictures: every kind that occurs is decoded to RGB, every one that cannot be used is told with its reason."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmfast.content.images import NOTHING_NAMED, Unreadable, find_pictures, open_picture
from mmfast.content.light import read_picture
from mmfast.errors import MmfastError
from tests.content.tiny import photo


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content, **options):
    image = open_picture(content, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_every_mode_becomes_rgb():
    colour = Image.fromarray(photo(1))
    np.testing.assert_array_equal(pixels(encoded(colour)), photo(1))
    grey = np.asarray(colour.convert("L"))
    np.testing.assert_array_equal(pixels(encoded(colour.convert("L"))), np.repeat(grey[..., None], 3, 2))
    clear = colour.convert("RGBA")
    clear.putalpha(0)
    assert (pixels(encoded(clear)) == 255).all()
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = pixels(encoded(cmyk, "JPEG", quality=95))[4, 4].astype(int)
    assert red[0] > 200 and max(red[1:]) < 60
    palette = colour.quantize(16)
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
SHADOW = GREY // 8  # so dark that its greatest 16-bit value looks like 8 bits of nothing else


@pytest.mark.parametrize("grey", [GREY, SHADOW, GREY * 0])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_by_their_mode(grey, kind):
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257), kind)
    np.testing.assert_array_equal(pixels(deep)[..., 0], grey)
    faint = encoded(Image.fromarray(grey.astype(np.uint16)), kind)  # at most 255 of 65535: nearly black
    assert pixels(faint).max() <= 1


@pytest.mark.parametrize(("scale", "shown"), [(1 / 255, GREY), (1.0, GREY), (1 / 1000, np.rint(GREY * 0.255))])
def test_floating_point_is_one_or_255(scale, shown):
    content = encoded(Image.fromarray(GREY.astype(np.float32) * np.float32(scale)), "TIFF")
    np.testing.assert_array_equal(pixels(content)[..., 1], shown)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (GREY.astype(np.float32) * 4, r"\(mode F\) are 0..1020; want 0..1 or 0..255"),
        (GREY.astype(np.float32) - 1, r"\(mode F\) are -1..254; want"),
        (np.where(GREY > 3, np.nan, 0).astype(np.float32), r"\(mode F\) are nan..nan; want"),
        (GREY.astype(np.int32) * 1000, r"\(mode I\) are 0..255000; want 0..65535"),
    ],
)
def test_grey_that_no_scale_explains_is_a_reason(values, reason):
    with pytest.raises(Unreadable, match=f"it cannot be decoded: its grey values {reason}"):
        open_picture(encoded(Image.fromarray(values), "TIFF"))


def test_exif_turns_nothing():
    image, exif = Image.fromarray(photo(4)), Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    np.testing.assert_array_equal(pixels(encoded(image, exif=exif)), photo(4))


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (6, 5), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert (pixels(content)[0, 0] == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "it is no picture of a known format"),
        (encoded(Image.fromarray(photo(2, 200, 200)))[:-20_000], "it cannot be decoded: "),
        (encoded(Image.fromarray(photo(2, 200, 200)), "JPEG")[:2000], "it cannot be decoded: "),
        (encoded(Image.new("1", (400, 300))), "it has 400 x 300 pixels, more than 100,000"),
        (encoded(Image.new("1", (20_000, 9_000))), "it has more than 100,000 pixels"),  # Pillow's own limit
    ],
)
def test_what_cannot_be_used_says_why(content, reason):
    with pytest.raises(Unreadable, match=reason):
        open_picture(content, most_pixels=100_000)


def test_a_file_that_changed_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(photo(3))))
    with pytest.raises(MmfastError, match=r"picture '.*a.png' changed while it was being encoded; run again"):
        open_picture(path, expected="0" * 64)
    with pytest.raises(Unreadable, match="cannot be read: No such file"):
        open_picture(tmp_path / "none.png")
    path.unlink()  # what a share on the network does: no statement about the picture, so nothing to keep
    with pytest.raises(MmfastError, match=r"cannot be read: .*; it could be when it was listed: run again") as told:
        open_picture(path, expected="0" * 64)
    assert not isinstance(told.value, Unreadable)


def test_files_are_found_by_name_address_and_id(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in ((first, ["a.png", "B2.jpg"]), (second, ["a.png", "deep.webp", "B9.JPEG"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(f"{folder.name} {name}".encode())
    named = ["a.png", None, "http://x/y/deep.jpg", "gone.png", "", str(second / "deep.webp")]
    items = pl.DataFrame({"id": ["B1", "B2", "B3", "B4", "B9", "B6"], "image": named})
    pictures = find_pictures(items, [first, second])
    expected = [first / "a.png", first / "B2.jpg", second / "deep.webp", None, second / "B9.JPEG", second / "deep.webp"]
    assert pictures.paths == expected
    assert pictures.problems == {3: "'gone.png' is not there"}
    assert pictures.hashes[2] == pictures.hashes[5] and pictures.hashes[3] is None
    assert len(pictures.of_hash()) == 4 and list(pictures.of_hash()) == sorted(pictures.of_hash())
    without = find_pictures(items.select("id"), [second])
    assert [path and path.name for path in without.paths] == [None, None, None, None, "B9.JPEG", None]
    assert without.problems[0] == NOTHING_NAMED
    with pytest.raises(MmfastError, match=r"none of the 6 items has a picture \(first: the items table names no pic"):
        find_pictures(items.select("id"), [tmp_path / "none"])


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, AttributeError, TypeError, IndexError])
def test_whatever_a_decoder_raises_is_a_reason(tmp_path, monkeypatch, error):
    def broken(self):
        raise error("a slip")

    path = tmp_path / "a.png"
    Image.fromarray(photo(1, 8, 8)).save(path)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    with pytest.raises(Unreadable, match="it cannot be decoded: a slip"):
        open_picture(path)
    assert read_picture(path) is None


def test_a_name_that_no_file_can_have_is_not_there(tmp_path):
    Image.fromarray(photo(1, 8, 8)).save(tmp_path / "b.png")
    items = pl.DataFrame({"id": ["a", "b", "c"], "image": ["x" * 5000, "b.png", "nul\0"]})
    found = find_pictures(items, [tmp_path])
    assert found.paths == [None, tmp_path / "b.png", None] and set(found.problems) == {0, 2}
