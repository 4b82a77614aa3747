"""The light encoders: what they tell apart, what they do with odd input, and that they are deterministic."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmfast.content.light import LightImageEncoder, LightTextEncoder, Rows, read_picture
from mmfast.errors import MmfastError


def pictures(count, seed=0):
    """Discs and squares, by turns, in one of four colours, at a random place."""
    rng = np.random.default_rng(seed)
    colours = np.array([(220, 30, 30), (30, 160, 40), (40, 60, 220), (230, 210, 40)])
    y, x = np.mgrid[:48, :48]
    result = []
    for n in range(count):
        row, column = rng.integers(18, 30, 2)
        disc = (y - row) ** 2 + (x - column) ** 2 < 150
        square = np.maximum(abs(y - row), abs(x - column)) < 11
        image = np.full((48, 48, 3), 200) + rng.integers(-8, 9, (48, 48, 3))
        image[disc if n % 2 else square] = colours[n // 2 % 4]
        result.append(image.clip(0, 255).astype(np.uint8))
    return result


def nearest(features):
    similarity = features @ features.T
    np.fill_diagonal(similarity, -2)
    return similarity.argmax(axis=1)


def test_similar_pictures_are_neighbours():
    features = LightImageEncoder(dim=32).encode(pictures(80))
    assert features.shape == (80, 32)
    assert features.dtype == np.float32
    n, found = np.arange(80), nearest(features)
    assert (n // 2 % 4 == found // 2 % 4).mean() > 0.9
    assert (n % 2 == found % 2).mean() > 0.8


def test_kinds_of_input_agree(tmp_path):
    array = pictures(1)[0]
    path = tmp_path / "one.png"
    Image.fromarray(array).save(path)
    expected = read_picture(array)
    assert expected.shape == (64, 64, 3)
    for same in (Image.fromarray(array), path, str(path), array / 255.0, array.astype(np.int32)):
        np.testing.assert_allclose(read_picture(same), expected, atol=1e-6)


def test_odd_modes_are_converted(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    flat = read_picture(grey)
    assert np.ptp(flat, axis=2).max() == 0
    np.testing.assert_array_equal(read_picture(grey[..., None]), flat)
    np.testing.assert_allclose(read_picture(Image.fromarray(grey.astype(np.uint16) * 257)), flat, atol=1 / 255)
    np.testing.assert_allclose(read_picture(grey.astype(np.uint16) * 257), flat, atol=1e-6)
    clear = np.zeros((8, 8, 4), np.uint8)
    np.testing.assert_array_equal(read_picture(clear), 1.0)
    palette = Image.fromarray(pictures(1)[0]).quantize(8)
    assert read_picture(palette).shape == (64, 64, 3)
    Image.new("CMYK", (9, 7), (0, 255, 255, 0)).save(tmp_path / "press.jpg")
    red = read_picture(tmp_path / "press.jpg").mean(axis=(0, 1))
    assert red[0] > 0.8 and red[1:].max() < 0.2
    np.testing.assert_allclose(read_picture(np.full((1, 1, 3), 51, np.uint8)), 0.2)


def test_unreadable_pictures_become_the_mean_row_and_are_recorded(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = tmp_path / "cut.jpg"
    Image.fromarray(pictures(1)[0]).save(whole)
    whole.write_bytes(whole.read_bytes()[:300])
    good = pictures(6)
    bad = [tmp_path / "text.png", whole, tmp_path / "absent.png", None, np.full((4, 4), np.nan), np.zeros((0, 3, 3))]
    encoder = LightImageEncoder(dim=16)
    features = encoder.encode([*bad[:3], *good, *bad[3:]])
    np.testing.assert_array_equal(encoder.missing, [0, 1, 2, 9, 10, 11])
    np.testing.assert_allclose(features[encoder.missing], np.tile(features[3:9].mean(axis=0), (6, 1)), atol=1e-6)
    assert features.any(axis=1).all()
    np.testing.assert_allclose(features[3:9], LightImageEncoder(dim=16).encode(good), atol=1e-6)
    assert len(encoder.encode(good)) == 6 and len(encoder.missing) == 0


def test_wrong_pictures_are_errors():
    with pytest.raises(MmfastError, match=r"shape \(3, 8, 8\)"):
        LightImageEncoder().encode([np.zeros((3, 8, 8), np.uint8)])
    with pytest.raises(MmfastError, match="got a int"):
        LightImageEncoder().encode([7])
    with pytest.raises(MmfastError, match="none of the 2 pictures"):
        LightImageEncoder().encode([None, "absent.png"])
    with pytest.raises(MmfastError, match="dim is 0"):
        LightImageEncoder(dim=0)


def test_one_picture_and_none_have_the_full_width():
    features = LightImageEncoder().encode(pictures(1))
    assert features.shape == (1, 256)
    assert np.linalg.norm(features) == pytest.approx(1, abs=1e-5)
    assert LightImageEncoder().encode([]).shape == (0, 256)
    assert LightTextEncoder().encode([]).shape == (0, 128)


def test_a_fitted_encoder_treats_new_content_like_old():
    images = pictures(40)
    encoder = LightImageEncoder(dim=16).fit(images)
    np.testing.assert_allclose(encoder.encode(images[:3]), encoder.encode(images)[:3], atol=1e-6)
    texts = [f"{colour} {kind} number {n}" for n in range(5) for colour in ("red", "blue") for kind in ("mug", "kite")]
    words = LightTextEncoder(dim=8).fit(texts)
    np.testing.assert_allclose(words.encode(texts[4:6]), words.encode(texts)[4:6], atol=1e-6)
    words.encode(["red mug", "zebra"])
    np.testing.assert_array_equal(words.missing, [1])


def test_similar_texts_are_neighbours():
    kinds, tails = ("mug", "kite", "lamp", "chair"), ("for you", "of the best sort", "on sale now", "made by hand")
    texts = [f"A {kind} {tail}, number {n}" for n in range(4) for kind in kinds for tail in tails]
    found = nearest(LightTextEncoder(dim=24).encode(texts))
    n = np.arange(len(texts))
    assert (n // 4 % 4 == found // 4 % 4).mean() > 0.9


def test_texts_ignore_case_and_read_other_scripts():
    features = LightTextEncoder(dim=8).encode(
        ["Red MUG", "red mug", "Übergröße Straße", "übergrösse strasse", "红色杯子", "红色的杯"]
    )
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert features[4] @ features[5] > 0.2
    assert abs(features[0] @ features[4]) < 0.1


def test_empty_texts_become_the_mean_row_and_are_recorded():
    encoder = LightTextEncoder(dim=8)
    features = encoder.encode(["", "red mug", None, "blue kite", " ?! "])
    np.testing.assert_array_equal(encoder.missing, [0, 2, 4])
    np.testing.assert_allclose(features[0], features[[1, 3]].mean(axis=0), atol=1e-6)
    with pytest.raises(MmfastError, match="none of the 2 texts"):
        encoder.encode(["", None])


def test_encoding_twice_gives_the_same_bytes():
    texts = [f"{a} {b}" for a in ("red", "blue", "green") for b in ("mug", "kite", "lamp")]
    assert LightTextEncoder().encode(texts).tobytes() == LightTextEncoder().encode(texts).tobytes()
    images = pictures(10)
    assert LightImageEncoder().encode(images).tobytes() == LightImageEncoder().encode(images).tobytes()


def test_settings_name_the_encoder():
    assert LightImageEncoder(dim=8).settings["encoder"] == LightImageEncoder.name
    assert LightTextEncoder(dim=8).settings["dim"] == 8


def test_sparse_rows_multiply_like_dense_ones():
    rng = np.random.default_rng(0)
    dense = rng.random((300, 20)) * (rng.random((300, 20)) < 0.2)
    dense[5] = 0
    rows, columns = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=300))])
    sparse = Rows(offsets, columns, dense[rows, columns].astype(np.float32))
    right, left = rng.random((20, 4)).astype(np.float32), rng.random((300, 4)).astype(np.float32)
    np.testing.assert_allclose(sparse.times(right), dense @ right, atol=1e-5)
    np.testing.assert_allclose(sparse.transposed(20).times(left), dense.T @ left, atol=1e-4)
