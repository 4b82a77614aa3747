"""The stages of `mmfast features` from the command line: objects, masks, descriptions, labels, training a parser."""

from __future__ import annotations

import csv

import numpy as np
import polars as pl
import pytest

from mmfast import features
from mmfast.cli import main
from mmfast.content.encoders import FORMS, PRESETS
from mmfast.content.masks import Masks
from mmfast.content.text_objects import TextObjects
from mmfast.data.demo import demo_folder
from mmfast.data.prepared import read_prepared
from tests.content.chat_server import ChatServer, fail, say
from tests.content.tiny import with_items

GOOD = "A red ceramic mug with a round handle, used for hot drinks. Brand unknown. Condition new."


@pytest.mark.parametrize("stage", features.SUBVERBS)
def test_every_stage_has_help_with_examples(stage, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["features", stage, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mmfast features {stage}") and f"  mmfast features {stage}" in text
    with pytest.raises(SystemExit):
        main(["help", "features", stage])
    assert capsys.readouterr().out == text


def test_help_names_every_form_of_encoder(capsys):
    with pytest.raises(SystemExit):
        main(["features", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    forms = [form.split("[") for kind in FORMS.values() for form in kind.split(", ")]
    forms = [first + rest[0].rstrip("]") if first == "clip" else "[".join([first, *rest]) for first, *rest in forms]
    assert {"last-token:NAME_OR_FOLDER", "clip:hf-hub:NAME", "clip:MODEL:TAG_OR_FILE"} <= set(forms)
    assert [form for form in {*forms, *(preset for _, preset in PRESETS)} if form not in text] == []


def test_one_command_finds_objects_masks_and_features(parser, tmp_path, capsys):
    folder = demo_folder(num_items=24, num_users=20)
    command = [
        "features",
        str(folder),
        "--objects",
        str(parser),
        "--rule",
        "wider",
        "--masks",
        "light",
        "--text",
        "light",
        "--quiet",
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "items: " in out and " rule, " in out and "objects: " in out
    assert "photos: 24 items, 0 whole photo, 0 missing" in out and "  text: 24 x 128 float32, light-text-1" in out
    assert main(["features", "status"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {kind} " in told for kind in ("encode", "parse", "segment"))


def test_objects_and_masks_are_written_to_files(parser, tmp_path, capsys):
    folder = str(demo_folder(num_items=24, num_users=20))
    objects, masks = tmp_path / "objects.safetensors", tmp_path / "masks.safetensors"
    settings = [f"parse.pipeline={parser}", "rule.pos=[NOUN,PROPN]", "rule.relations=[]"]
    assert main(["features", "objects", folder, *settings, "--quiet", "--out", str(objects)]) == 0
    assert main(["features", "segment", folder, "side=64", "--masks", "2", "--quiet", "--out", str(masks)]) == 0
    assert f"written: {masks}" in capsys.readouterr().out
    assert len(TextObjects.load(objects)) == 24
    found = Masks.load(masks)
    assert len(found) == 24 and max(found.size.ravel()) == 64 and np.diff(found.offsets).max() == 2
    capsys.readouterr()
    (tmp_path / "file").write_text("")
    for stage, settings in (("objects", [f"parse.pipeline={parser}"]), ("segment", ["side=64"])):
        assert main(["features", stage, folder, *settings, "--quiet", "--out", str(tmp_path / "new" / stage)]) == 0
        assert main(["features", stage, folder, *settings, "--quiet", "--out", str(tmp_path / "file" / stage)]) == 2
        assert f"cannot write '{tmp_path}/file/{stage}': " in capsys.readouterr().err
    assert main(["features", "segment", folder, "side=64", "--processes", "0"]) == 2
    assert "segment: got processes=0; want at least 1" in capsys.readouterr().err
    assert main(["features", "label", folder, "--parser", str(parser), "by=file", "--quiet"]) == 2
    assert "give file=FILE" in capsys.readouterr().err
    assert main(["features", "objects", folder, "parse.pipelin=x"]) == 2
    assert "parse.pipelin: unknown key. Did you mean 'pipeline'?" in capsys.readouterr().err


def test_labels_of_the_truth_and_of_a_file(parser, tmp_path, capsys):
    folder = demo_folder(num_items=24, num_users=20)
    out = tmp_path / "labels.csv"
    command = ["features", "label", str(folder), "--parser", str(parser), "--quiet"]
    assert main([*command, "by=truth", "least_labelled=0", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("labels: ") and f"written: {out}" in text
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == int(text.split(" truth")[0].split()[-1]) > 0
    assert {row["item"] for row in rows} <= set(read_prepared(folder).item_ids)
    assert main([*command, "by=file", f"file={out}", "least_labelled=0"]) == 0
    assert capsys.readouterr().out.startswith(f"labels: {len(rows)} file")


def test_descriptions_become_the_image_feature(shop, sentence_folder, capsys):
    folder, photos = shop
    (photos / "4.png").unlink()
    with ChatServer([say(GOOD, prompt_tokens=100, completion_tokens=20)]) as server:
        command = ["features", "describe", str(folder), "--pictures", str(photos), "--quiet", "by=endpoint"]
        command += [f"endpoint.url={server.url}", "endpoint.model=seer", "endpoint.cost_per_million_prompt=1000"]
        encode = ["--encode", f"sentence:{sentence_folder}", "--device", "cpu"]
        assert main([*command, *encode]) == 0
        assert len(server.bodies) == 19
        out = capsys.readouterr().out
        assert main([*command, *encode, "--out", str(folder.parent / "described")]) == 0
        assert f"{folder.parent / 'described'}:\n" in capsys.readouterr().out
        assert "pictures: 19 described, 1 without a description" in out and "cost: 1.90" in out
        assert "B004: picture: '4.png' is not there" in out and "run asked: 19 new in this run" in out
        assert main(command) == 0 and main(["features", "status"]) == 0
        assert len(server.bodies) == 19
        again = capsys.readouterr().out
        assert ".jsonl: 19 answers, 0 failures, 0 again" in again and "run asked: 0 new in this run" in again
    assert "    B004: picture: '4.png' is not there" in out
    data = read_prepared(folder)
    image, text = data.features["image"], data.features["text"]
    assert image.shape == text.shape == (20, 24) and data.missing["image"].tolist() == [4]
    assert data.manifest["features"]["image"]["source"].startswith("descriptions (describe-seer")
    np.testing.assert_allclose(image, np.repeat(image[:1], 20, 0), atol=1e-6)
    assert np.abs(np.diff(text, axis=0)).max() > 1e-3


def test_that_nothing_was_described_is_an_error(shop, capsys):
    with ChatServer([say("I'm sorry, I can't help with that.")]) as server:
        by = ["by=endpoint", f"endpoint.url={server.url}", "endpoint.model=m"]
        assert main(["features", "describe", str(shop[0]), "--pictures", str(shop[1]), "--quiet", *by]) == 2
    told = capsys.readouterr()
    assert "no picture has a description; the reasons are above" in told.err and "and 15 more" in told.out


def test_weights_of_the_encoder_are_looked_for_before_anything_is_described(shop, capsys):
    with ChatServer([say(GOOD)]) as server:
        by = ["by=endpoint", f"endpoint.url={server.url}", "endpoint.model=m", "--encode", "sentence:org/none"]
        assert main(["features", "describe", str(shop[0]), "--pictures", str(shop[1]), "--quiet", *by]) == 2
    assert "https://huggingface.co/org/none" in capsys.readouterr().err and not server.bodies


def test_a_catalogue_without_texts_is_one_sentence(shop, parser, sentence_folder, capsys):
    folder, _ = shop
    empty = [pl.lit(None, pl.String).alias("title"), pl.lit(" ").alias("text")]
    with_items(folder, empty)
    for command in (
        ["objects", str(folder), f"parse.pipeline={parser}"],
        ["label", str(folder), "--parser", str(parser), "by=file"],
        [str(folder), "--text", f"sentence:{sentence_folder}"],
        [str(folder), "--text", "light"],
    ):
        assert main(["features", *command, "--quiet"]) == 2
        error = capsys.readouterr().err
        assert "none of the 20 items has a text: their titles and texts are empty; fill the column title" in error


def test_failures_of_labels_name_their_items(shop, parser, capsys):
    folder, _ = shop
    with ChatServer([fail(400, "maximum context length is 8 tokens")]) as server:
        by = ["by=endpoint", f"endpoint.url={server.url}", "endpoint.model=m", "endpoint.concurrency=1", "stop_after=2"]
        command = ["features", "label", str(folder), "--parser", str(parser), "--rule", "wider", "--quiet", *by]
        assert main(command) == 2
    assert "the last one (item 'B00" in capsys.readouterr().err


def test_texts_that_were_cut_for_the_model_are_told(shop, parser, capsys):
    folder, _ = shop
    long = "The lamp holds a mug. " * 10
    with_items(folder, pl.when(pl.int_range(pl.len()) < 3).then(pl.lit(long)).otherwise(pl.lit("A mug.")).alias("text"))
    with ChatServer([say("lamp")]) as server:
        own = {"by": "endpoint", "endpoint.url": server.url, "endpoint.model": "m", "text_limit": "150"}
        own |= {"least_labelled": "0"}
        pairs = [f"{name}={value}" for name, value in own.items()]
        assert main(["features", "label", str(folder), "--parser", str(parser), "--quiet", *pairs]) == 0
        assert "\ntexts longer than text_limit, cut for the model: 3\n" in capsys.readouterr().out
        pairs = [f"labels.{pair}" for pair in pairs] + [f"objects.parse.pipeline={parser}"]
        assert main(["targetmr", "label", str(folder), *pairs, "--quiet"]) == 0
        assert "\ntexts longer than text_limit, cut for the model: 3\n" in capsys.readouterr().out


def test_without_packages_stages_say_what_to_install_and_status_works(shop, monkeypatch, capsys):
    folder, photos = (str(path) for path in shop)
    monkeypatch.setattr("mmfast.content.weights.importlib.util.find_spec", lambda name: None)
    for stage, package in (
        ("objects", "ftfy"),
        ("segment", "skimage"),
        ("describe", "transformers"),
        ("label", "ftfy"),
    ):
        assert (
            main(["features", stage, folder, *([] if stage in ("objects", "label") else ["--pictures", photos])]) == 2
        )
        assert f"need the package {package}, which is not installed; " in capsys.readouterr().err
    assert main(["features", "status", folder, "--pictures", photos]) == 0
