"""TargetMR from a catalogue of photos and texts: objects, encoders, labels, selectors, transfer, pages and commands."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmfast import targetmr
from mmfast.cli import main
from mmfast.config import DataConfig, load_section
from mmfast.content.store import Store
from mmfast.content.text_objects import find_text_objects
from mmfast.data.demo import demo_folder
from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.catalogue import Catalogue, load_light, save_light
from mmfast.frameworks.targetmr.encode import encode_objects
from mmfast.frameworks.targetmr.encoders import ClipObjects
from mmfast.frameworks.targetmr.light_pair import LightObjects, LightPair, describe, train_light_pair, word_loss
from mmfast.frameworks.targetmr.objects import ItemObjects, join_objects
from mmfast.frameworks.targetmr.settings import ObjectSettings, TargetMRConfig
from mmfast.frameworks.targetmr.stages import Selectors, choose_targets, train_selectors
from mmfast.frameworks.targetmr.truth import truth_scores
from tests.content import tiny
from tests.content.treebank import trained_parser
from tests.frameworks.targetmr_toys import toy_objects


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    return trained_parser(tmp_path_factory.mktemp("parser"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mmfast.frameworks.targetmr.catalogue.LIGHT_DIM", 8)
    monkeypatch.setattr("mmfast.frameworks.targetmr.catalogue.LIGHT_STEPS", 30)  # it only has to be there


@pytest.fixture
def settings(parser):
    return [
        f"objects.parse.pipeline={parser}",
        "objects.rule.pos=[NOUN,PROPN]",
        "objects.rule.relations=[]",
        "objects.segmenter={kind: light}",
        "objects.encoder=light",
        "labels.by=truth",
        "select.epochs=2",
        "refine.epochs=2",
    ]


@pytest.fixture
def demo():
    return demo_folder(num_items=40, num_users=30)


def test_every_stage_has_help_with_examples(capsys):
    for stage in targetmr.SUBVERBS:
        with pytest.raises(SystemExit) as stop:
            main(["targetmr", stage, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: mmfast targetmr {stage}") and f"  mmfast targetmr {stage}" in text
    assert main(["targetmr"]) == 0 and "transfer TARGET" in capsys.readouterr().out
    assert main(["targetmr", "slect"]) == 2 and "Did you mean 'select'?" in capsys.readouterr().err


def test_objects_of_a_clip_model(parser, clip_folder, demo):
    encoder = ClipObjects(f"clip:{clip_folder}", "cpu")
    assert encoder.positions.shape == (77, encoder.dim)
    text = "A red mug on a wooden table"
    vectors, places = encoder.words(text, [(6, 9), (15, 21)])
    table = encoder._text.tables()[0]
    assert places.tolist() == [3, 6]
    ids = encoder._pieces.words(text, [(6, 9)]).ids
    assert np.allclose(vectors[0], table[ids].mean(0))
    assert encoder.words(text, [])[0].shape == (0, encoder.dim)
    given = {"encoder": f"clip:{clip_folder}", "parse": {"pipeline": str(parser)}, "segmenter": {"kind": "light"}}
    options = ObjectSettings(**given)
    catalogue = Catalogue.of_folder(demo, demo, "cpu", show=False)
    found = catalogue.find(options, options.rule)
    objects = catalogue.encode(options, found)
    assert objects.dim == encoder.dim and objects.modalities() == ("text", "image")
    assert torch.allclose(objects.text.texts[0], torch.from_numpy(encoder.texts([found.texts.texts[0]])[0]), atol=1e-5)
    row = int(objects.text.ptr[1])
    context = found.texts.contexts(1, 16)[0]
    assert torch.allclose(objects.text.contexts[row], torch.from_numpy(encoder.texts([context])[0]), atol=1e-5)
    again = catalogue.encode(options, found)  # from the store
    assert torch.equal(again.image.values, objects.image.values)


def test_an_item_without_a_noun_is_its_whole_text_and_the_photoless_have_no_masks(parser, tmp_path):
    folder, photos = tiny.write_shop(tmp_path / "shop", 6, titles=["It flies", "", "Kite", "Kite", "Kite", "Kite"])
    (photos / "4.png").unlink()
    Image.new("CMYK", (24, 20)).save(photos / "5.png".replace("png", "jpg"))
    options = ObjectSettings(
        encoder="light", parse={"pipeline": str(parser)}, segmenter={"kind": "light"}, pictures=(str(photos),)
    )
    catalogue = Catalogue.of_folder(folder, folder, "cpu", show=False)
    found = catalogue.find(options, options.rule)
    objects = catalogue.encode(options, found)
    assert objects.has_photo.tolist() == [True, True, True, True, False, True]
    assert objects.image.counts[4] == 0 and not objects.photos[4].any()
    whole = np.flatnonzero(found.texts.word < 0)
    owner = np.repeat(np.arange(6), np.diff(found.texts.offsets))[whole]
    assert torch.equal(objects.text.words[whole], objects.text.texts[owner])
    assert torch.equal(objects.text.contexts[whole], objects.text.texts[owner])


def test_objects_are_written_and_read(tmp_path):
    objects = toy_objects(12)
    objects.save(tmp_path / "o.safetensors")
    read = ItemObjects.load(tmp_path / "o.safetensors")
    assert torch.equal(read.text.words, objects.text.words) and read.encoder == "toy"
    both = join_objects([objects, read])
    assert len(both) == 24 and both.text.ptr[-1] == 2 * objects.text.ptr[-1]
    assert torch.equal(both.image.take(torch.tensor([13])).values, objects.image.take(torch.tensor([1])).values)
    other = ItemObjects(read.text, read.image, read.photos, read.has_text, read.has_photo, "other")
    with pytest.raises(MmfastError, match="encoded by 2 different models"):
        join_objects([objects, other])
    (tmp_path / "x").write_text("x")
    for path in ("x", "nowhere"):
        with pytest.raises(MmfastError, match="cannot be read"):
            ItemObjects.load(tmp_path / path)
        with pytest.raises(MmfastError, match="cannot be read"):
            load_light(tmp_path / path)


def test_the_light_encoder_learns_which_picture_belongs_to_which_text(tmp_path):
    rng = np.random.default_rng(0)
    colours = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 200, 30), "white": (240, 240, 240)}
    texts, pictures = [], []
    for n in range(80):
        name, colour = list(colours.items())[n % 4]
        texts.append(f"A {name} thing of number {n}")
        noise = rng.integers(-20, 20, (20, 20, 3))
        pictures.append(describe([Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))]))
    encoder = LightObjects(train_light_pair(texts, pictures, dim=16, steps=150, batch=40))
    words, places = encoder.words("a red blue thing", [(2, 5), (6, 10)])
    seen = encoder.pictures([Image.new("RGB", (20, 20), colours[name]) for name in ("red", "blue")])
    cosine = (
        torch.nn.functional.normalize(torch.from_numpy(words)) @ torch.nn.functional.normalize(torch.from_numpy(seen)).T
    )
    assert cosine[0, 0] > cosine[0, 1] and cosine[1, 1] > cosine[1, 0] and places.tolist() == [2, 3]
    assert encoder.texts(["", "unknown words"]).shape == (2, 16) and not encoder.texts([""]).any()
    save_light(encoder, tmp_path / "light")
    assert LightObjects(load_light(tmp_path / "light")).identity == encoder.identity


def test_the_light_encoder_finds_the_object_that_a_word_names_though_no_text_says_which():
    rng, colours = np.random.default_rng(1), {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 200, 30)}
    plain = {name: Image.new("RGB", (16, 16), colour) for name, colour in colours.items()}
    drawn = [list(rng.choice(list(colours), 2, replace=False)) for _ in range(90)]
    texts = [f"A {two[0]} one beside a {two[1]} one" for two in drawn]
    pictures = [describe([Image.new("RGB", (16, 16)), *(plain[name] for name in two)]) for two in drawn]
    encoder = LightObjects(train_light_pair(texts, pictures, dim=16, steps=120, batch=40))
    words, _ = encoder.words("red blue green", [(0, 3), (4, 8), (9, 14)])
    cosines = torch.nn.functional.cosine_similarity(
        torch.from_numpy(words)[:, None], torch.from_numpy(encoder.pictures(list(plain.values())))[None], dim=2
    )
    assert cosines.argmax(1).tolist() == [0, 1, 2] and cosines.argmax(0).tolist() == [0, 1, 2]


def test_words_that_objects_show_by_hand():
    pair = LightPair(3, torch.Generator().manual_seed(0)).double()
    objects, words = torch.randn(3, 3, dtype=torch.float64), torch.tensor([5, 7])
    owner, says = torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    cosines = torch.nn.functional.cosine_similarity(objects[:, None], pair.table[words][None], dim=2)
    shows = torch.sigmoid(5 * cosines - 3)
    seen = torch.stack([1 - (1 - shows[0]) * (1 - shows[1]), shows[2]])
    unseen = pair.unseen(objects, owner, words)
    assert torch.allclose(unseen.exp(), 1 - seen, rtol=1e-6)
    by_hand = -(seen[0, 0].log() + (1 - seen[0, 1]).log() + (1 - seen[1, 0]).log() + seen[1, 1].log()) / 2
    assert torch.allclose(word_loss(unseen, says), by_hand, rtol=1e-6)


def test_stages_from_the_command_line(settings, demo, tmp_path, capsys):
    data, files = str(demo), {name: str(tmp_path / name) for name in ("objects", "encoder", "labels.csv", "selectors")}
    command = ["objects", data, "--out", files["objects"], "--keep-encoder", files["encoder"]]
    assert main(["targetmr", *command, *settings, "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "text objects:" in told and "of width 8" in told
    noisy = ["labels.noise=0.5", "labels.failure_rate=0.1"]
    assert main(["targetmr", "label", data, *settings, *noisy, "--out", files["labels.csv"], "--quiet"]) == 0
    assert re.search(r"labels: \d+ truth, \d+ failed", capsys.readouterr().out)
    assert main(["targetmr", "select", data, *settings, "--quiet"]) == 0
    assert "of held-out labels" in (told := capsys.readouterr().out) and "refinement" not in told
    by_file = [*settings, "labels.by=file", f"labels.file={files['labels.csv']}"]
    assert main(["targetmr", "refine", data, *by_file, "--out", files["selectors"], "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "held-out loss" in told and "truth, text:" in told and "truth, image random:" in told
    assert "truth, in scope: 100.0%" in told
    train = ["targetmr", "train", "model=bm3", f"data={data}", f"framework.selectors={files['selectors']}"]
    train += [f"framework.objects.file={files['objects']}", "train.epochs=1", f"out={tmp_path}", "name=a", "--quiet"]
    assert main([*train, "device=cpu"]) == 0
    assert (tmp_path / "a" / "targetmr" / "stages.json").is_file()


def test_selectors_are_read_as_they_were_trained(tmp_path):
    objects, labels = toy_objects(12), torch.zeros(12, dtype=torch.int64)
    config = load_section(TargetMRConfig, ["select.epochs=1", "refine.epochs=1", "refine.activation=none"])
    path = tmp_path / "selectors"
    train_selectors(objects, labels, config, 0).save(path)
    selectors = Selectors.load(path, config)
    for changed in ("refine.activation=relu", "select.activation=gelu", "positions=learned", "normalize_each=true"):
        with pytest.raises(MmfastError, match=r'were trained with .*"activation":"none"'):
            Selectors.load(path, load_section(TargetMRConfig, ["refine.activation=none", changed]))
    whole, raw = (
        choose_targets(objects, selectors, c).image for c in (config, config.model_copy(update={"without": ("RRF",)}))
    )
    assert torch.equal(whole.chosen, raw.chosen) and not torch.equal(whole.target, raw.target)
    seen = raw.chosen >= 0
    rows = objects.image.ptr[:-1][seen] + raw.chosen[seen]
    assert torch.equal(raw.target[seen], objects.image.values[rows])
    half = replace(selectors, image=None)
    with pytest.raises(MmfastError, match="hold no refinement"):
        choose_targets(objects, half, config)


def test_what_is_missing_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("mmfast.content.weights._unreachable", lambda address: "no network")
    monkeypatch.chdir(tmp_path)
    nowhere = ["objects.parse.pipeline=no_pipeline", "objects.encoder=clip:hf-hub:nobody/clip"]  # on no machine
    nowhere += ["labels.local.model=nobody/chat", "objects.pictures=[photos]"]
    config = load_section(TargetMRConfig, nowhere)
    told = config.missing(DataConfig(name="clothing", root=str(tmp_path)))
    parts = [
        "raw review and meta files",
        "no folder 'photos'",
        "no_pipeline",
        "SAM vit_h",
        "nobody/clip",
        "nobody/chat",
    ]
    assert len(told) == len(parts) and all(part in text for part, text in zip(parts, told, strict=True))
    (tmp_path / "photos").mkdir()
    light = ["objects.encoder=light", "objects.segmenter={kind: light}", "labels.by=truth", "objects.pictures=[photos]"]
    few = load_section(TargetMRConfig, [*light, f"objects.parse.pipeline={tmp_path}"])
    assert len(few.missing(DataConfig(name="clothing", root=str(tmp_path)))) == 1
    (tmp_path / "clothing").mkdir()
    assert config.missing(DataConfig(name="clothing", root=str(tmp_path))) == []
    assert config.missing(DataConfig(name="demo")) == []


def test_transfer_needs_no_label_of_the_target(settings, demo, tmp_path, capsys):
    target = demo_folder(seed=1, num_items=36, num_users=30)
    command = ["targetmr", "transfer", str(target), "--from", str(demo), "--out", str(tmp_path / "s"), "--quiet"]
    assert main([*command, *settings]) == 0
    told = capsys.readouterr().out
    assert f"{demo}: labels:" in told and f"{target}: labels:" not in told and f"{target}: truth, text:" in told
    own = [f"framework.{s}" for s in settings if not s.startswith(("labels", "objects.encoder"))]
    train = ["targetmr", "train", "model=vbpr", f"data={target}", f"framework.selectors={tmp_path / 's'}", *own]
    train += [f"framework.objects.encoder=light:{tmp_path / 's.encoder'}", "train.epochs=1", f"out={tmp_path}"]
    assert main([*train, "name=b", "device=cpu", "--quiet"]) == 0
    assert main([*train[:-2], "framework.objects.encoder=light", "device=cpu", "--quiet"]) == 2
    assert "encode them with the same encoder" in capsys.readouterr().err


def test_the_page_of_a_case(settings, demo, tmp_path, capsys):
    own = [f"framework.{setting}" for setting in settings]
    train = ["targetmr", "train", "model=mgcn", f"data={demo}", *own, "train.epochs=1", f"out={tmp_path}", "name=with"]
    assert main([*train, "device=cpu", "--quiet"]) == 0
    plain = ["train", "model=bm3", f"data={demo}", "train.epochs=1", f"out={tmp_path}", "name=plain", "device=cpu"]
    assert main([*plain, "--quiet"]) == 0
    page = tmp_path / "case.html"
    explain = ["targetmr", "explain", str(tmp_path / "with"), "--item", "item-00007"]
    assert main([*explain, "--without", str(tmp_path / "plain"), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "NOUN" in text and "similarity" in text and "without it" in text and "<b>target</b>" in text
    assert "http" not in text and "src='data:image/png" in text
    capsys.readouterr()
    assert main(["targetmr", "explain", str(tmp_path / "plain"), "--item", "item-00007"]) == 2
    assert "trained without TargetMR" in capsys.readouterr().err
    runs, picture = [str(tmp_path / "plain"), str(tmp_path / "with")], tmp_path / "with" / "targetmr" / "scatter.png"
    assert main(["targetmr", "scatter", *runs, "--count", "20"]) == 0 and picture.is_file()
    told = capsys.readouterr().out
    assert told.count("silhouette") == 2 and "near both" in told and str(picture) in told
    assert main(["targetmr", "scatter", runs[0]]) == 2 and "name two items" in capsys.readouterr().err
    both = ["--items", "item-00001", "item-00002", "--out", str(tmp_path / "two.svg")]
    assert main(["targetmr", "scatter", runs[0], *both]) == 0 and (tmp_path / "two.svg").is_file()


def test_a_catalogue_of_texts_alone(parser, tmp_path):
    folder, _ = tiny.write_shop(tmp_path / "shop", 6)
    catalogue = Catalogue.of_folder(folder, folder, "cpu", show=False)
    options = load_section(TargetMRConfig, [f"objects.parse.pipeline={parser}"]).objects
    texts = find_text_objects(["A kite flies."] * 6, options.parse)
    encoder = LightObjects(train_light_pair(["a kite"], [describe([Image.new("RGB", (9, 9))])], steps=2))
    objects = encode_objects(texts, None, None, encoder, options, Store())
    assert objects.modalities() == ("text",) and len(objects.image.values) == 0
    assert truth_scores(catalogue, None, None) == {}
