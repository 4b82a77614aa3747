"""Descriptions of pictures: retries after refusals, what is no description, and resuming with a local model."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from PIL import Image

from mmfast.content.answers import count_answers
from mmfast.content.chat import Reply
from mmfast.content.describe import DescribeSettings, describe, fill_empty, is_looping, weakness
from mmfast.content.endpoint import EndpointSettings
from mmfast.content.images import find_pictures
from mmfast.content.language_models import VisionSettings
from mmfast.content.prompt_files import load_prompt
from mmfast.errors import MmfastError
from tests.content.chat_server import ChatServer, fail, say
from tests.content.tiny_models import save_mllama

GOOD = "A red ceramic mug with a round handle, used for hot drinks. Brand unknown. Condition new."
COLOURS = {"a": "red", "b": "green", "c": "blue", "d": "yellow", "e": "black"}


@pytest.fixture
def shop(tmp_path):
    """Five pictures, a damaged one and an item without any; returns ids and pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, (item, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (40 + 30 * n, 60), colour).save(folder / f"{item}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    ids = [*COLOURS, "broken", "none"]
    return ids, find_pictures(pl.DataFrame({"id": ids}), [folder])


def ask(shop, folder, act, retries=6, **changes):
    with ChatServer(act) as server:
        endpoint = EndpointSettings(
            url=server.url, model="seer", name="one", concurrency=1, backoff_seconds=0, retries=retries
        )
        settings = DescribeSettings(by="endpoint", endpoint=endpoint, **changes)
        return describe(*shop, settings, folder, show=False), server


def test_every_picture_is_described_once(shop, tmp_path):
    found, server = ask(shop, tmp_path / "out", [say(GOOD, prompt_tokens=1000, completion_tokens=30)])
    assert found.texts == dict.fromkeys(COLOURS, GOOD)
    assert found.failures["broken"].startswith("picture: ") and found.failures["none"].startswith("picture: ")
    assert len(server.bodies) == 5 and found.usage.completion_tokens == 150
    assert server.prompts == {load_prompt("describe").text: 5}
    again, server = ask(shop, tmp_path / "out", [say("other")])
    assert again.texts == found.texts and not server.bodies and again.usage.new == 0


def test_items_with_the_same_picture_are_asked_about_once(shop, tmp_path):
    ids, pictures = shop
    folder = pictures.paths[0].parent
    for twin, item in {"a2": "a", "b2": "b"}.items():
        shutil.copy(folder / f"{item}.png", folder / f"{twin}.png")
    table = pl.DataFrame({"id": ["a2", *ids, "b2"]})
    twins = (table["id"].to_list(), find_pictures(table, [folder]))
    replies = [say("One."), fail(503), *(say(f"{n}.") for n in range(3))]
    found, server = ask(twins, tmp_path / "out", replies, stop_after=9, retries=0)
    assert len(server.bodies) == 5 and found.usage.requests == 5 and found.usage.answers == 4
    assert found.texts["a"] == found.texts["a2"] == "One." and "after 1 attempts" in found.failures["b2"]
    counts = count_answers(tmp_path / "out")
    assert list(counts.values()) == [{"answers": 5, "failures": 1, "again": 2}]
    found, server = ask(twins, tmp_path / "out", [say("Two.")])
    assert len(server.bodies) == 1 and found.texts["b"] == found.texts["b2"] == "Two."
    lines = found.file.read_text()
    again, server = ask(twins, tmp_path / "out", [say("other")])
    assert not server.bodies and again.texts == found.texts and found.file.read_text() == lines


def test_a_new_item_has_the_answer_to_its_picture_and_earlier_ones_keep_theirs(shop, tmp_path):
    before, _ = ask(shop, tmp_path / "out", [say(f"{n}.") for n in range(5)])
    folder = shop[1].paths[0].parent
    shutil.copy(folder / "c.png", folder / "0.png")
    table = pl.DataFrame({"id": ["0", *shop[0]]})
    found, server = ask((table["id"].to_list(), find_pictures(table, [folder])), tmp_path / "out", [say("other")])
    assert not server.bodies and found.texts == {"0": before.texts["c"], **before.texts}
    rows = [json.loads(line) for line in found.file.read_text().splitlines()]
    for row in rows[-2:]:  # as earlier versions asked: every item by itself
        row["text"] = f"{row['item']} by itself."
    found.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, server = ask((table["id"].to_list(), find_pictures(table, [folder])), tmp_path / "out", [say("other")])
    assert found.texts["0"] == "0 by itself." and found.texts["c"] == before.texts["c"] and not server.bodies
    assert found.usage.requests == 5  # they stand in the lines that paid


def test_a_good_answer_to_a_picture_goes_before_a_failure_and_items_are_named_once(shop, tmp_path):
    folder, ids = shop[1].paths[0].parent, shop[0]
    shutil.copy(folder / "c.png", folder / "d.png")
    same = find_pictures(pl.DataFrame({"id": ids}), [folder])
    found, _ = ask((ids, same), tmp_path / "out", [say(f"{n}.") for n in range(5)])
    rows = [json.loads(line) for line in found.file.read_text().splitlines()]
    for row in rows:
        if row["item"] == "c":
            row.update(text="", failure="refused", again=False)
    found.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(folder / "c.png", folder / "0.png")
    named = ["0", *ids]
    found, server = ask((named, find_pictures(pl.DataFrame({"id": named}), [folder])), tmp_path / "out", [say("new")])
    assert found.texts["0"] == found.texts["d"] and "c" in found.failures and not server.bodies
    twice = [*ids, "c"]
    with pytest.raises(MmfastError, match="item 'c' is asked about twice"):
        ask((twice, find_pictures(pl.DataFrame({"id": twice}), [folder])), tmp_path / "out", [say("new")])


@pytest.mark.parametrize(
    "bad", [say("I'm sorry, but I can't help with that."), say(""), say("red " * 200), say(None, refusal="no")]
)
def test_a_bad_answer_is_asked_once_more_with_the_short_prompt(shop, tmp_path, bad):
    found, server = ask(shop, tmp_path / "out", [bad, say(GOOD)])
    assert found.texts == dict.fromkeys(COLOURS, GOOD)
    assert server.prompts == {load_prompt("describe").text: 5, load_prompt("describe-short").text: 1}
    row = json.loads(found.file.read_text().splitlines()[0])
    assert row["attempts"] == 2 and row["prompt_tokens"] == 20


def test_a_second_bad_answer_is_a_failure_that_is_not_asked_again(shop, tmp_path):
    found, server = ask(shop, tmp_path / "out", [say(""), say("I cannot describe people."), say(GOOD)])
    assert found.failures["a"] == "empty, with the short prompt refused" and "a" not in found.texts
    assert len(found.texts) == 4 and len(server.bodies) == 6
    again, server = ask(shop, tmp_path / "out", [say(GOOD)])
    assert again.failures == found.failures and not server.bodies


def test_another_picture_or_prompt_is_asked_again(shop, tmp_path):
    ids, pictures = shop
    ask(shop, tmp_path / "out", [say(GOOD)])
    Image.new("RGB", (50, 50), "white").save(pictures.paths[0])
    changed = (ids, find_pictures(pl.DataFrame({"id": ids}), [tmp_path / "pictures"]))
    found, server = ask(changed, tmp_path / "out", [say("White.")])
    assert len(server.bodies) == 1 and found.texts["a"] == "White." and found.texts["b"] == GOOD
    (tmp_path / "own.txt").write_text("What is it?")
    found, server = ask(changed, tmp_path / "out", [say("A thing.")], prompt=str(tmp_path / "own.txt"))
    assert len(server.bodies) == 5 and set(found.texts.values()) == {"A thing."}


def test_the_same_name_behind_another_address_is_another_model(shop, tmp_path):
    told = []
    for name in ("", "", "one", "one"):
        with ChatServer([say(GOOD)]) as server:
            endpoint = EndpointSettings(url=server.url, model="seer", name=name)
            describe(*shop, DescribeSettings(by="endpoint", endpoint=endpoint), tmp_path / "out", show=False)
            told.append(len(server.bodies))
    assert told == [5, 5, 5, 0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("Unknown.", ""),
        ("Красная кружка из керамики.", ""),
        ("", "empty"),
        (" \n", "empty"),
        ("I\u2019m sorry, I can\u2019t do that.", "refused"),
        ("As an AI, I do not see pictures.", "refused"),
        ("I won't describe this.", "refused"),
        ("I can see a mug. Sorry, no brand is visible.", ""),
        ("The mug is red. " * 20, "looping"),
        (GOOD + " It is red." * 40, "looping"),
        ("杯子是红色的。" * 40, "looping"),
        ("!" * 256, "looping"),
        ("colour: unknown\nmaterial: unknown\npattern: unknown\nshape: round\nbrand: unknown\n", ""),
    ],
)
def test_what_is_no_description(text, reason):
    assert weakness(Reply(text)) == reason


def test_long_descriptions_do_not_loop():
    words = [
        f"{colour} {thing} number {n}" for n in range(20) for colour in COLOURS.values() for thing in ("mug", "rug")
    ]
    assert not is_looping(". ".join(words))


def test_empty_texts_are_filled_with_descriptions(shop, tmp_path):
    found, _ = ask(shop, tmp_path / "out", [say(GOOD)])
    texts, rows = fill_empty(["A mug.", " ", "", "x", "y", "", ""], shop[0], found)
    assert texts == ["A mug.", GOOD, GOOD, "x", "y", "", ""] and rows == [1, 2]


def test_a_local_model_resumes_to_the_same_bytes(shop, tmp_path):
    save_mllama(tmp_path / "mllama")
    model = VisionSettings(model=str(tmp_path / "mllama"), dtype="float32", device="cpu", batch_size=2)
    settings = DescribeSettings(local=model, max_new_tokens=6)
    whole = describe(*shop, settings, tmp_path / "whole", show=False)
    clean = whole.file.read_bytes()
    assert len(whole.texts) + len(whole.failures) == 7
    for kept in (0, 1, 3):
        part = tmp_path / f"part-{kept}" / whole.file.name
        part.parent.mkdir()
        part.write_bytes(b"".join(clean.splitlines(keepends=True)[:kept]) + b'{"item": "torn')
        assert describe(*shop, settings, part.parent, show=False).texts == whole.texts
        assert part.read_bytes() == clean


def test_another_decoder_of_pictures_asks_again(shop, tmp_path, monkeypatch):
    for version, asked in (("1", 5), ("1", 0), ("2", 5)):
        monkeypatch.setattr("PIL.__version__", version)
        assert len(ask(shop, tmp_path / "out", [say(GOOD)])[1].bodies) == asked
    monkeypatch.setattr("mmfast.content.describe.DECODER", 0)
    assert len(ask(shop, tmp_path / "out", [say(GOOD)])[1].bodies) == 5


def test_missing_weights_are_told_with_the_page_and_the_alternative(shop, tmp_path):
    with pytest.raises(MmfastError) as error:
        describe(*shop, DescribeSettings(), tmp_path, show=False)
    for part in ("https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct", "by=endpoint", "--image clip"):
        assert part in str(error.value)
