"""Every encoder through its real loading code: rows are the library's own, what is missing is one sentence."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from importlib.metadata import version
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from mmfast.content import weights
from mmfast.content.blocks import Blocks
from mmfast.content.encode import BLOCK, EncodedFeatures, decoded_batches
from mmfast.content.encode_clip import clip_identity
from mmfast.content.encode_sentence import MINILM, minilm_folder
from mmfast.content.encoders import EncodeConfig, computed_by, hash_weights, load_encoder, parse_encoder
from mmfast.content.images import NOTHING_NAMED, find_pictures
from mmfast.content.store import Store
from mmfast.errors import MmfastError
from tests.content import tiny

TEXTS = ["a red kite", "", "a blue kite that flies high " * 9, "a red kite", " \n", "shoe"]


def written(model, contents, tmp_path, modality="text", **options):
    """Return (rows, missing, source) of contents under an encoder."""
    config = EncodeConfig(model=model, workers=0, device="cpu", **options)
    source = EncodedFeatures(load_encoder(modality, config), contents, config, Store(tmp_path / "store"))
    count = len(contents.paths) if modality == "image" else len(contents)
    ids = pl.Series([f"B{n}" for n in range(count)])
    missing = source.write(tmp_path / "rows.npy", modality, np.arange(count), ids)
    return np.load(tmp_path / "rows.npy"), missing.tolist(), source


@pytest.fixture
def pictures(tmp_path):
    """Five items: two photos, one of them twice, a damaged file and no file."""
    for item in (0, 1):
        Image.fromarray(tiny.photo(item, 40, 50)).save(tmp_path / f"{item}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    names = ["0.png", "1.png", "2.png", "0.png", None]
    return find_pictures(pl.DataFrame({"id": ["a", "b", "c", "d", "e"], "image": names}), [tmp_path])


def test_presets_and_forms():
    assert parse_encoder("image", "clip").name == "clip:ViT-B-32-quickgelu:openai"
    assert parse_encoder("text", "clip-b16").rest == "ViT-B-16-quickgelu:openai"
    assert parse_encoder("text", "minilm").rest == MINILM
    assert parse_encoder("text", "stsb-roberta-large").rest == "sentence-transformers/stsb-roberta-large"
    assert parse_encoder("image", "light").name == "light"
    with pytest.raises(
        MmfastError,
        match=r"image encoder 'clpi' is unknown\. Did you mean 'clip'\?.*clip:hf-hub:NAME, torch",
    ):
        parse_encoder("image", "clpi")
    with pytest.raises(MmfastError, match="image encoder 'minilm' is unknown"):
        parse_encoder("image", "minilm")
    with pytest.raises(MmfastError, match="text encoder 'sentence' is unknown"):
        parse_encoder("text", "sentence")


def test_clip_pictures_are_projected_and_not_normalised(clip_folder, pictures, tmp_path):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    pixels = torch.stack([transform(Image.fromarray(tiny.photo(item, 40, 50))) for item in (0, 1)])
    with torch.no_grad():
        expected = model.eval().encode_image(pixels).numpy()
    rows, missing, source = written(f"clip:{clip_folder}", pictures, tmp_path, "image")
    assert rows.dtype == np.float32 and missing == [2, 4]
    np.testing.assert_allclose(rows[[0, 1, 3]], expected[[0, 1, 0]], rtol=1e-5, atol=1e-6)
    mean = (2 * expected[0] + expected[1]) / 3
    np.testing.assert_allclose(rows[[2, 4]], [mean, mean], rtol=1e-5, atol=1e-6)
    reasons = {"B2": "it is no picture of a known format", "B4": "the items table names no picture"}
    assert source.unreadable == reasons and source.sidecar()["unreadable"] == reasons
    assert source.sidecar()["settings"]["transform"]["size"] == [32, 32]
    assert source.encoder == f"clip:{clip_folder.name}@{hash_weights(model)[:12]}"


def test_clip_texts(clip_folder, tmp_path):
    import open_clip

    model = open_clip.create_model(f"local-dir:{clip_folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")([TEXTS[0], TEXTS[2], TEXTS[5]])
    with torch.no_grad():
        expected = model.eval().encode_text(tokens).numpy()
    rows, missing, source = written(f"clip:{clip_folder}", TEXTS, tmp_path, missing="zero")
    assert source.settings()["ftfy"] == version("ftfy")  # repairs what the tokenizer reads
    assert missing == [1, 4] and not rows[missing].any()
    np.testing.assert_allclose(rows[[0, 2, 5]], expected, rtol=1e-5, atol=1e-6)


def test_vectors_of_coca_are_not_normalised_either(pictures, tmp_path):
    folder = tiny.save_clip(tmp_path / "coca", config=tiny.COCA)
    for modality, contents in (("image", pictures), ("text", TEXTS)):
        rows, missing, source = written(f"clip:{folder}", contents, tmp_path, modality, missing="zero")
        lengths = np.linalg.norm(np.delete(rows, missing, axis=0), axis=1)
        assert np.abs(lengths - 1).min() > 1e-3 and source.settings()["normalize"] is False


def test_a_named_clip_model_with_a_checkpoint_file(clip_folder, tmp_path):
    import json

    import open_clip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-clip.json").write_text(json.dumps(tiny.CLIP))
    open_clip.add_model_config(tmp_path / "configs")
    tiny.save_clip(tmp_path / "old", file="weights.pt")
    by_file = load_encoder("text", EncodeConfig(model=f"clip:tiny-clip:{tmp_path}/old/weights.pt", device="cpu"))
    by_folder = load_encoder("text", EncodeConfig(model=f"clip:{clip_folder}", device="cpu"))
    np.testing.assert_array_equal(by_file.encode(["a kite"]), by_folder.encode(["a kite"]))
    assert by_file.settings["weights"] == by_folder.settings["weights"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "old")
        patch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda model, tag: {"url": f"https://{model}/{tag}"})
        shadowed = clip_identity("clip:tiny-clip:weights.pt")  # a tag goes before a file called as it
        assert shadowed.startswith("tiny-clip:weights.pt, ")
    assert clip_identity(f"clip:tiny-clip:{tmp_path}/old/weights.pt") != shadowed
    with pytest.raises(MmfastError, match=r"'none.pt' is neither a file nor a tag of tiny-clip. Tags: none"):
        load_encoder("text", EncodeConfig(model="clip:tiny-clip:none.pt"))
    (tmp_path / "old" / "weights.pt").write_bytes(b"cut")
    with pytest.raises(MmfastError, match=r"the weights of 'clip:tiny-clip:.*without it: --text light"):
        load_encoder("text", EncodeConfig(model=f"clip:tiny-clip:{tmp_path}/old/weights.pt"))


def test_sentences_are_those_of_the_library(sentence_folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(sentence_folder), device="cpu").encode([TEXTS[0], TEXTS[2], TEXTS[5]])
    rows, missing, source = written(f"sentence:{sentence_folder}", TEXTS, tmp_path)
    assert missing == [1, 4] and rows.shape == (6, tiny.BERT["hidden_size"])
    np.testing.assert_allclose(rows[[0, 2, 5]], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows[0]), 1, rtol=1e-5)
    assert source.settings()["max_length"] == 64
    short, *_ = written(f"sentence:{sentence_folder}", TEXTS, tmp_path, max_length=4, dtype="float16")
    assert short.dtype == np.float16 and not np.allclose(short[2], rows[2], atol=1e-2)
    np.testing.assert_allclose(short[5], rows[5], atol=1e-3)


def test_weights_of_half_precision_are_computed_in_float32(tmp_path):
    folder = tiny.save_sentence(tmp_path / "half", dtype=torch.float16)
    from sentence_transformers import SentenceTransformer

    rows, *_ = written(f"sentence:{folder}", ["a red kite"], tmp_path)
    whole = SentenceTransformer(str(folder), device="cpu").float()
    np.testing.assert_allclose(rows[0], whole.encode("a red kite"), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("kind", "most"), [("Bert", 64), ("Roberta", 62)])
def test_no_more_tokens_than_positions(tmp_path, kind, most):
    folder = tiny.save_sentence(tmp_path / "model", kind=kind)
    text = " ".join(["kite"] * 100)
    rows, *_ = written(f"sentence:{folder}", [text], tmp_path, max_length=most)
    assert np.isfinite(rows).all()
    with pytest.raises(MmfastError, match=rf"--max-length {most + 1}: 'sentence:model' takes at most {most} tokens"):
        written(f"sentence:{folder}", [text], tmp_path, max_length=most + 1)


def test_a_plain_transformers_folder_is_mean_pooled(tmp_path):
    folder = tiny.save_sentence(tmp_path / "plain", pipeline=False)
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = model.eval()(**tokenizer("a red kite", return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
    rows, *_ = written(f"sentence:{folder}", ["a red kite"], tmp_path)
    np.testing.assert_allclose(rows[0], expected, atol=1e-6)


def test_the_real_minilm(tmp_path):
    rows, missing, source = written("minilm", ["a warm hat", "a cosy cap for winter", "", "a steel ladder"], tmp_path)
    assert rows.shape == (4, 384) and missing == [2]
    assert rows[0] @ rows[1] > rows[0] @ rows[3] + 0.2
    assert source.settings()["max_length"] == 256 and source.encoder.startswith(f"sentence:{MINILM}@")
    assert minilm_folder().is_dir()


@pytest.mark.parametrize(
    ("save", "form", "config", "change"),
    [
        (tiny.save_clip, "clip", "open_clip_config.json", ('"quick_gelu": true', '"quick_gelu": false')),
        (tiny.save_sentence, "sentence", "config.json", ('"hidden_act": "gelu"', '"hidden_act": "relu"')),
    ],
)
def test_another_architecture_with_equal_weights_is_another_encoder(tmp_path, save, form, config, change):
    found = []
    for name in ("a", "b", "c"):
        folder = tmp_path / name / "model"
        save(folder)
        text = (folder / config).read_text()
        if name == "b":
            assert change[0] in text
            (folder / config).write_text(text.replace(*change))
        encoder = load_encoder("text", EncodeConfig(model=f"{form}:{folder}", device="cpu"))
        found.append((encoder.settings, encoder.encode(["a red mug"])))
    assert found[0][0] == found[2][0] and np.array_equal(found[0][1], found[2][1])
    assert found[0][0]["weights"] == found[1][0]["weights"] and not np.allclose(found[0][1], found[1][1], atol=1e-6)
    assert found[0][0] != found[1][0]


def test_light_encoders_see_all_items_at_once(pictures, tmp_path):
    from mmfast.content.light import LightImageEncoder

    rows, missing, source = written("light", pictures, tmp_path, "image")
    np.testing.assert_array_equal(rows[:2], LightImageEncoder().encode(pictures.paths)[:2])
    assert missing == [2, 4] and source.unreadable["B2"] == "it is no picture of a known format"
    again, missing, _ = written("light", pictures, tmp_path, "image")
    np.testing.assert_array_equal(again, rows)
    assert missing == [2, 4] and len(list(Store(tmp_path / "store").entries("encode"))) == 1


def test_autocast_changes_little_and_has_its_own_entries(clip_folder, pictures, tmp_path):
    full, *_ = written(f"clip:{clip_folder}", pictures, tmp_path, "image")
    half, *_ = written(f"clip:{clip_folder}", pictures, tmp_path, "image", precision="bfloat16")
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()
    assert len(list(Store(tmp_path / "store").entries("encode"))) == 2


def test_the_device_and_the_release_of_torch_are_part_of_what_rows_are_kept_under(clip_folder, monkeypatch, tmp_path):
    *_, source = written(f"clip:{clip_folder}", TEXTS, tmp_path)
    release = ".".join(torch.__version__.split(".")[:2])
    assert (source.sidecar()["settings"]["device"], source.sidecar()["settings"]["torch"]) == ("cpu", release)
    monkeypatch.setattr(torch, "__version__", "99.1.0")
    assert computed_by(torch.device("cuda:1")) == {"device": "cuda", "torch": "99.1"}
    written(f"clip:{clip_folder}", TEXTS, tmp_path)
    assert len(list(Store(tmp_path / "store").entries("encode"))) == 2


def test_worker_processes_give_the_same_rows(clip_folder, pictures, tmp_path):
    alone, *_ = written(f"clip:{clip_folder}", pictures, tmp_path, "image", batch_size=2)
    config = EncodeConfig(model=f"clip:{clip_folder}", workers=2, device="cpu", batch_size=2)
    source = EncodedFeatures(load_encoder("image", config), pictures, config, Store(tmp_path / "b"))
    source.write(tmp_path / "b.npy", "image", np.arange(5), pl.Series(list("abcde")))
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), alone)
    pictures.paths[1].write_bytes(b"other")
    source.store = Store(tmp_path / "c")
    with pytest.raises(MmfastError, match=r"^picture '.*1.png' changed while it was being encoded; run again$"):
        source.write(tmp_path / "b.npy", "image", np.arange(5), pl.Series(list("abcde")))


class Losing:
    """An encoder whose decoding process ends: while a picture is decoded, or while a batch is encoded."""

    name, dim, settings = "losing", 2, {}

    def __init__(self, decoding):
        self.transform = self.end if decoding else lambda picture: torch.zeros(3, 2, 2)

    def end(self, picture):
        os.kill(os.getpid(), signal.SIGKILL)

    def encode(self, batch):
        (child,) = multiprocessing.active_children()
        child.kill()
        time.sleep(30)  # until torch hears of it


@pytest.mark.parametrize("decoding", [True, False])
def test_a_lost_decoding_process_is_a_sentence(pictures, tmp_path, decoding):
    config = EncodeConfig(model="clip", workers=1, batch_size=1, device="cpu")
    source = EncodedFeatures(Losing(decoding), pictures, config, Store(tmp_path / "store"))
    with pytest.raises(MmfastError, match=r"^a process that decodes pictures was ended .* again with --workers 0"):
        source.write(tmp_path / "rows.npy", "image", np.arange(5), pl.Series(list("abcde")))


def test_blocks_are_sorted_and_fixed():
    blocks = Blocks.of(["bb", "a", None, "bb", "ab", "c"])
    assert blocks.keys == ["a", "c", "ab", "bb"] and blocks.inverse.tolist() == [3, 0, -1, 3, 2, 1]
    assert blocks.items(0, 3).tolist() == [1, 4, 5]
    assert Blocks.of([None]).ranges(BLOCK) == []


def test_one_input_more_changes_the_blocks_round_it_alone():
    texts = [f"text {n:04d}" for n in range(500)]

    def blocks_of(texts):
        blocks = Blocks.of(texts)
        ranges = blocks.ranges(16)
        assert [at for start, stop in ranges for at in range(start, stop)] == list(range(len(texts)))
        assert all(0 < stop - start <= 32 for start, stop in ranges) and 20 < len(ranges) < 70
        return {tuple(blocks.keys[start:stop]) for start, stop in ranges}

    before = blocks_of(texts)
    for new in ("A", "text 0250a", "a text that is longer than all"):
        assert len(blocks_of([*texts, new]) - before) <= 3
    assert len(blocks_of(texts[:100] + texts[101:]) - before) <= 3


def test_nothing_to_encode_is_told(sentence_folder, clip_folder, tmp_path):
    with pytest.raises(
        MmfastError,
        match=r"none of the 2 items .*, the first \('B0'\) because it has no text; `.* status DATA` ",
    ):
        written(f"sentence:{sentence_folder}", ["", " "], tmp_path)
    (tmp_path / "0.png").write_bytes(b"no picture")
    broken = find_pictures(pl.DataFrame({"id": ["B0"], "image": ["0.png"]}), [tmp_path])
    for model in (f"clip:{clip_folder}", "light", "light"):
        with pytest.raises(MmfastError, match=r"the first \('B0'\) .* of a known format; `.* status DATA --pictures F"):
            written(model, broken, tmp_path, "image")


def test_a_whole_encoder_that_fails_on_good_pictures_says_its_own_words(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("mmfast.content.light._finish", Mock(side_effect=MmfastError("its own words")))
    with pytest.raises(MmfastError, match="its own words"):
        written("light", pictures, tmp_path, "image")


class Constant:
    """An encoder of one number per text."""

    name, dim, transform = "constant", 2, None

    def __init__(self, value):
        self.value, self.settings = value, {"value": str(value)}

    def encode(self, batch):
        return np.full((len(batch), 2), self.value, np.float32)


class Full(Constant):
    """An encoder on a device without memory."""

    def encode(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_full_device_is_told(tmp_path):
    source = EncodedFeatures(Full(0), ["a"], EncodeConfig(model="full", batch_size=7), Store(tmp_path))
    told = "7 inputs at once .*: the device has too little memory; choose a smaller --batch-size, .* or device=cpu"
    with pytest.raises(MmfastError, match=told):
        source.write(tmp_path / "rows.npy", "text", np.arange(1), pl.Series(["a"]))


def test_rows_of_zeros_are_missing_and_no_number_is_infinite(tmp_path):
    for value, dtype, advice in (
        (np.nan, "float32", "another model"),
        (np.inf, "float32", "another model"),
        (1e6, "float16", "--dtype float32"),
    ):
        config = EncodeConfig(model="constant", dtype=dtype)
        source = EncodedFeatures(Constant(value), ["a", "b"], config, Store(tmp_path))
        with pytest.raises(
            MmfastError, match=rf"'text' of 'constant' have NaN or infinite .*in 2 of 2.*; choose {advice}$"
        ):
            source.write(tmp_path / "rows.npy", "text", np.arange(2), pl.Series(["a", "b"]))
    source = EncodedFeatures(Constant(0), ["a", "b"], EncodeConfig(model="constant"), Store(tmp_path))
    assert source.write(tmp_path / "rows.npy", "text", np.arange(2), pl.Series(["a", "b"])).tolist() == [0, 1]


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MmfastError, match=r"CLIP features need the package open_clip, which is not inst.*\[content\]"):
        load_encoder("image", EncodeConfig(model="clip"))


def test_an_unreachable_hub_is_told_at_once(monkeypatch):
    monkeypatch.setattr(weights.urllib.request, "getproxies", dict)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert "127.0.0.1 cannot be reached: " in weights._unreachable(address)
        server.listen()
        assert weights._unreachable(address) is None
    monkeypatch.setattr(weights.urllib.request, "getproxies", lambda: {"https": "http://proxy"})
    assert weights._unreachable("http://127.0.0.1:9") is None


def test_the_light_encoder_tells_why_a_picture_is_missing_and_notices_changes(pictures, tmp_path):
    _, missing, source = written("light", pictures, tmp_path, "image")
    assert missing == [2, 4]
    assert source.unreadable == {"B2": "it is no picture of a known format", "B4": NOTHING_NAMED}
    pictures.paths[0].write_bytes(b"other")
    source.store = Store(tmp_path / "empty")
    with pytest.raises(MmfastError, match=r"0.png' changed while it was being encoded; run again"):
        source.write(tmp_path / "b.npy", "image", np.arange(5), pl.Series(list("abcde")))
    assert list(source.store.entries("encode")) == []


def test_workers_start_only_for_many_pictures(monkeypatch):
    asked = []

    def loader(*arguments, num_workers, **options):
        asked.append(num_workers)
        return []

    monkeypatch.setattr("mmfast.content.encode.DataLoader", loader)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    for count, workers in ((255, None), (1000, None), (10_000, None), (5, 3)):
        list(decoded_batches([], [list(range(count))], None, EncodeConfig(model="clip", workers=workers)))
    assert asked == [0, 3, 8, 3]
