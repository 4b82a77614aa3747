"""Prompts: those that come with mmfast, a user's own, and the mistakes a user makes in one."""

from __future__ import annotations

import pytest

from mmfast.content.prompt_files import load_prompt
from mmfast.errors import MmfastError


def test_the_prompts_that_come_with_mmfast_ask_what_they_must():
    describe = load_prompt("describe").text
    for attribute in ("category", "colour", "material", "pattern", "shape", "used", "whom", "brand", "condition"):
        assert attribute in describe
    assert '"unknown"' in describe and len(load_prompt("describe-short").text) < len(describe) / 3
    assert "exactly one candidate" in load_prompt("label", ["text", "candidates"]).text


def test_a_file_of_ones_own_is_filled_once(tmp_path):
    (tmp_path / "own.txt").write_text("T: {text}\nC: {candidates}\n", encoding="utf-8")
    prompt = load_prompt(str(tmp_path / "own.txt"), ["text", "candidates"])
    assert prompt.fill(text="{candidates} {x} }", candidates="{text}") == "T: {candidates} {x} }\nC: {text}"


def test_the_digest_follows_the_text(tmp_path):
    digests = set()
    for text in ("{text} a", "{text} b", "{text} b\n"):
        (tmp_path / "own.txt").write_text(text, encoding="utf-8")
        digests.add(load_prompt(str(tmp_path / "own.txt"), ["text"]).digest)
    assert len(digests) == 2  # white space at the ends does not count


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"no slots", "got no {slots}, want {text}"),
        (b"{text} {titel}", "got {text}, {titel}"),
        (b"\xff\xfe{text}", "UTF-8"),
        (None, "none of describe, describe-short, label"),
    ],
)
def test_mistakes_are_told(tmp_path, content, told):
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(MmfastError) as error:
        load_prompt(str(tmp_path / "own.txt"), ["text"])
    assert told in str(error.value)
