"""`mmfast features status`: of every stage what is there, what is missing, what failed, and why."""

from __future__ import annotations

import json
import shutil
from itertools import count

import polars as pl
import pytest

from mmfast.cli import main
from mmfast.content import encode
from mmfast.content.store import Store
from tests.content.chat_server import ChatServer, fail, say
from tests.content.tiny import with_items

STAGES = ["features", "text objects", "masks", "descriptions", "labels"]


@pytest.fixture
def bad_shop(shop):
    """A shop with an empty picture, one that is not there, and an item without text."""
    folder, photos = shop
    (photos / "3.png").write_bytes(b"")
    (photos / "5.png").unlink()
    with_items(folder, pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("")).otherwise(pl.col("title")).alias("title"))
    with_items(folder, pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("")).otherwise(pl.col("text")).alias("text"))
    return folder, photos


def told(folder, photos, capsys):
    """Return the stages of the JSON form by stage, and the printed lines."""
    command = ["features", "status", str(folder), "--pictures", str(photos)]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    assert found["folder"] == str(folder) and found["items"] == 20
    for one in found["stages"]:
        assert one["there"] + len(one["missing"]) + len(one["failed"]) == 20, one
    assert main(command) == 0
    return {
        stage: [one for one in found["stages"] if one["stage"] == stage] for stage in STAGES
    }, capsys.readouterr().out


def test_nothing_is_there_yet(shop, capsys):
    stages, lines = told(*shop, capsys)
    assert not any(stages.values())
    assert lines.splitlines()[1:] == [
        "  nothing is there yet",
        f"data {shop[0]}: 20 items",
        *(f"  {stage}: none" for stage in STAGES),
    ]


def test_features_objects_and_masks(bad_shop, parser, sentence_folder, capsys):
    folder, photos = bad_shop
    command = ["features", str(folder), "--text", f"sentence:{sentence_folder}", "--image", "light", "--quiet"]
    assert main([*command, "--pictures", str(photos), "--objects", str(parser), "--masks", "light"]) == 0
    stages, lines = told(folder, photos, capsys)
    image, text = stages["features"]
    assert (image["by"], image["failed"]) == ("image light-image-1", {"B003": "the file is empty"})
    assert image["missing"] == {"B005": "'5.png' is not there"} and image["there"] == 18
    assert text["by"].startswith(f"text sentence:{sentence_folder.name}@") and text["failed"] == {}
    assert text["missing"] == {"B007": "the item has no text"}
    (objects,), (masks,) = stages["text objects"], stages["masks"]
    assert objects["missing"] == {"B007": "the item has no text"} and not objects["failed"]
    assert masks["missing"] == {"B005": "'5.png' is not there"} and masks["failed"] == {"B003": "the file is empty"}
    assert (
        "  masks, light" in lines and ": 18 there, 1 missing, 1 failed\n    missing: B005: '5.png' is not th" in lines
    )
    assert "    failed: B003: the file is empty" in lines and "  labels: none" in lines


def test_all_missing_photos_are_named(shop, capsys):
    folder, photos = shop
    for item in range(8):
        (photos / f"{item}.png").unlink()
    assert main(["features", "segment", str(folder), "--pictures", str(photos), "--quiet", "side=64"]) == 0
    out = capsys.readouterr().out
    assert out.count("is not there") == 5 and "and 3 more: `mmfast features status" in out
    assert f"--pictures {photos} --json` lists all of them" in out
    with ChatServer(lambda body: say("A kite.")) as server:
        by = ["--quiet", "by=endpoint", f"endpoint.url={server.url}", "endpoint.model=m"]
        assert main(["features", "describe", str(folder), "--pictures", str(photos), *by]) == 0
    command = f"mmfast features status {folder} --pictures {photos} --json"
    assert f"  and 3 more: `{command}` lists all of them" in capsys.readouterr().out
    (masks,) = told(folder, photos, capsys)[0]["masks"]
    assert masks["missing"] == {f"B{item:03d}": f"'{item}.png' is not there" for item in range(8)}


def test_equal_reasons_are_one_line_with_a_count(shop, capsys):
    folder, photos = shop
    assert main(["features", "segment", str(folder), "--pictures", str(photos), "--quiet", "side=64"]) == 0
    for path in Store().folder.glob("segment/*/*.entry"):
        path.unlink()
    Store().fail("segment", "0" * 64, "no such mask", {"recipe": {"model": "m", "settings": {}}})
    stages, lines = told(folder, photos, capsys)
    assert stages["masks"] == [] and "  segment failed: 1 x no such mask" in lines
    assert main(["features", "segment", str(folder), "--pictures", str(photos), "--quiet", "side=64"]) == 0
    for path in sorted(Store().folder.glob("segment/*/*.entry"))[:9]:
        path.unlink()
    (masks,), lines = told(folder, photos, capsys)[0]["masks"], told(folder, photos, capsys)[1]
    assert masks["there"] == 11 and set(masks["missing"].values()) == {"not computed yet"}
    assert " and 4 more: not computed yet" in lines


def test_what_a_stopped_encoder_left(shop, sentence_folder, monkeypatch, capsys):
    folder, photos = shop
    monkeypatch.setattr(encode, "BLOCK", 4)
    blocks = count()

    def put(self, *given):
        if next(blocks) == 2:
            raise KeyboardInterrupt
        return whole(self, *given)

    whole = Store.put
    monkeypatch.setattr(Store, "put", put)
    command = ["features", str(folder), "--text", f"sentence:{sentence_folder}", "--quiet", "--batch-size", "2"]
    assert main(command) == 130
    (text,) = told(folder, photos, capsys)[0]["features"]
    assert 0 < text["there"] < 20 and set(text["missing"].values()) == {"not computed yet"}
    assert text["note"] == "in the store, not in the prepared folder"
    monkeypatch.undo()


def test_unreadable_pictures_of_finished_blocks_have_failed(bad_shop, clip_folder, tmp_path, capsys):
    folder, photos = bad_shop
    command = ["features", str(folder), "--image", f"clip:{clip_folder}", "--text", "light", "--pictures", str(photos)]
    assert main([*command, "--quiet", "--workers", "0", "--out", str(tmp_path / "copy")]) == 0
    stages, _ = told(folder, photos, capsys)
    image, text = sorted(stages["features"], key=lambda one: one["by"])
    assert image["note"] == text["note"] == "in the store, not in the prepared folder"
    assert image["there"] == 18 and image["failed"] == {"B003": "the file is empty"}
    assert image["missing"] == {"B005": "'5.png' is not there"}
    assert text["there"] == 19 and text["missing"] == {"B007": "the item has no text"} and not text["failed"]


def test_the_light_encoder_leaves_why_no_picture_can_be_read(shop, capsys):
    folder, photos = shop
    for photo in photos.glob("*.png"):
        photo.write_bytes(b"no picture")
    command = ["features", str(folder), "--image", "light", "--quiet", "--pictures", str(photos)]
    assert main(command) == 2 and "because it is no picture of a known format; " in capsys.readouterr().err
    shown = told(folder, photos, capsys)[0]["features"]
    assert [(one["there"], len(one["failed"])) for one in shown if one["by"] == "image light-image-1"] == [(0, 20)]


def test_texts_without_a_known_word_are_told_from_empty_ones(bad_shop, capsys):
    folder, photos = bad_shop
    for column in ("title", "text"):
        odd = pl.when(pl.col("id") == "B004").then(pl.lit("!!!")).when(pl.col("id") == "B006").then(pl.lit("\u200d"))
        with_items(folder, odd.otherwise(pl.col(column)).alias(column))
    assert main(["features", str(folder), "--text", "light", "--quiet"]) == 0
    assert "    B004: the encoder knows no word of its text" in capsys.readouterr().out
    unknown = dict.fromkeys(("B004", "B006"), "the encoder knows no word of its text")
    (text,) = told(folder, photos, capsys)[0]["features"]
    assert text["failed"] == unknown and text["missing"] == {"B007": "the item has no text"}
    manifest = json.loads((folder / "manifest.json").read_text())
    beside = (folder / manifest["features"]["text"]["file"]).with_suffix(".json")
    content = json.loads(beside.read_text())
    assert content["unreadable"] == unknown
    before = beside.stat().st_size
    beside.write_text(json.dumps(content | {"unreadable": {}}).ljust(before))  # as earlier versions wrote it
    (text,) = told(folder, photos, capsys)[0]["features"]
    untold = "it has no row of its own; the file of the features does not tell why"
    assert text["failed"] == dict.fromkeys(unknown, untold) and text["missing"] == {"B007": "the item has no text"}


def test_what_changed_after_encoding_is_named(bad_shop, capsys):
    folder, photos = bad_shop
    command = ["features", str(folder), "--text", "light", "--image", "light", "--pictures", str(photos), "--quiet"]
    assert main(command) == 0
    shutil.copy(photos / "1.png", photos / "2.png")
    shutil.copy(photos / "1.png", photos / "3.png")
    (photos / "4.png").unlink()
    with_items(folder, pl.when(pl.col("id") == "B009").then(pl.lit("Other.")).otherwise(pl.col("text")).alias("text"))
    image, text = told(folder, photos, capsys)[0]["features"]
    changed = "its picture or text is not the one that was encoded: compute it again"
    assert image["missing"] == {"B005": "'5.png' is not there", **dict.fromkeys(("B002", "B003", "B004"), changed)}
    assert image["there"] == 16 and image["failed"] == {}
    assert text["missing"] == {"B007": "the item has no text", "B009": changed} and text["there"] == 18
    assert main(command) == 0
    image, text = told(folder, photos, capsys)[0]["features"]
    assert image["missing"].keys() == {"B004", "B005"} and text["missing"].keys() == {"B007"}


def test_a_damaged_entry_is_not_there(shop, capsys):
    folder, photos = shop
    assert main(["features", "segment", str(folder), "--pictures", str(photos), "--quiet", "side=64"]) == 0
    path = next(Store().folder.glob("segment/*/*.entry"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (masks,) = told(folder, photos, capsys)[0]["masks"]
    assert masks["there"] == 19 and list(masks["missing"].values()) == ["not computed yet"]


def test_answers_and_labels(bad_shop, parser, tmp_path, capsys):
    folder, photos = bad_shop
    replies = [say("A kite."), say(""), say(""), fail(400, "too large"), say("A kite.")]
    with ChatServer(replies) as server:
        by = ["--quiet", "by=endpoint", f"endpoint.url={server.url}", "endpoint.model=m", "endpoint.concurrency=1"]
        assert main(["features", "describe", str(folder), "--pictures", str(photos), *by]) == 0
    (found,), lines = told(folder, photos, capsys)[0]["descriptions"], told(folder, photos, capsys)[1]
    assert found["missing"] == {"B005": "'5.png' is not there"} and found["there"] == 16
    assert sorted(found["failed"].values()) == [
        "empty, with the short prompt empty",
        "picture: the file is empty",
        "the endpoint answered 400: too large (asked again by the next run)",
    ]
    assert "  descriptions, describe-m, prompt " in lines and "  labels: none" in lines
    own = tmp_path / "labels"
    with ChatServer(lambda body: say("Kite" if "number 1 " in str(body) else "a thing")) as server:
        by = ["--quiet", "by=endpoint", f"endpoint.url={server.url}", "endpoint.model=m"]
        rule = ["--rule", "wider", "--parser", str(parser), "--out", str(own)]
        assert main(["features", "label", str(folder), *by, *rule]) == 0
    (labels,) = told(folder, photos, capsys)[0]["labels"]
    rows = own.read_text().splitlines()[1:]
    assert labels["there"] == len(rows) > 0
    assert labels["failed"] and set(labels["failed"].values()) == {"no candidate: 'a thing'"}
    # Another text is another question: what was said of the old one is not there for it.
    with_items(folder, pl.concat_str("text", pl.lit(" New.")).alias("text"))
    assert told(folder, photos, capsys)[0]["labels"] == []


def test_answers_of_other_endpoints_and_settings_do_not_hide_good_ones(shop, parser, capsys):
    folder, photos = shop

    def label(server, rule, max_new_tokens=24):
        by = ["--quiet", "by=endpoint", f"endpoint.url={server.url}", "endpoint.model=m", "endpoint.retries=0"]
        by += [f"max_new_tokens={max_new_tokens}", "stop_after=1000", "least_labelled=0"]
        return main(["features", "label", str(folder), *by, "--rule", rule, "--parser", str(parser)])

    def found():
        return [(len(one["failed"]), one["by"]) for one in told(folder, photos, capsys)[0]["labels"]]

    with ChatServer(lambda body: say("Kite")) as good, ChatServer(lambda body: fail(503)) as bad:
        assert label(good, "wider") == 0
        ((failed, by),) = found()
        assert label(bad, "wider") == label(good, "wider", 9) == 0
        counts = dict((by, failed) for failed, by in found())
        assert len(counts) == 3 and counts[by] == failed < max(counts.values())
        assert all(", settings " in by for by in counts)
    # Lines of earlier versions do not tell their settings: they belong to those of their prompt, where these are one.
    for path in (Store().folder / "answers").glob("label-*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        (settings,) = {row["about"]["settings"] for row in rows if row["about"]["settings"].startswith(by[-8:])}
        kept = [row for row in rows if row["about"]["settings"] == settings]
        for row in kept[::2]:
            del row["about"]["settings"]
        whole = path.read_text()
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        assert found() == [(failed, by)]
        path.write_text(whole)
    # Without any they are one group, in which good answers count.
    for path in (Store().folder / "answers").glob("label-*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            del row["about"]["settings"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(failed, ", settings " in by) for failed, by in found()] == [(failed, False)]


def test_rows_of_another_list_of_items_are_told(shop, capsys):
    folder, photos = shop
    assert main(["features", str(folder), "--text", "light", "--quiet"]) == 0
    assert not any(one["note"] for one in told(folder, photos, capsys)[0]["features"])
    with_items(folder, pl.concat_str("id", pl.lit("x")).alias("id"))
    (text,), lines = told(folder, photos, capsys)[0]["features"], told(folder, photos, capsys)[1]
    assert (
        text["note"] == "its rows were computed for another list of items: compute it again" and text["note"] in lines
    )


def test_data_without_pictures_and_wrong_folders(shop, capsys):
    folder, _ = shop
    assert main(["features", "status", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "  no item has a picture here: " in out and "  masks: none" in out
    assert main(["features", "status", str(folder), "--pictures", "nowhere"]) == 2
    assert "there is no folder 'nowhere'" in capsys.readouterr().err
    assert main(["features", "status", "--json"]) == 0
    assert "data" not in json.loads(capsys.readouterr().out)
