"""Pieces of CLIP's tokenizer: the same ids as open_clip's, the right characters, and the cut at 77 tokens."""

from __future__ import annotations

import numpy as np
import pytest

from mmfast.content.bpe import ClipPieces, clean_text
from mmfast.errors import MmfastError

TEXTS = [
    "A red Teapot, 350ml - dishwasher-safe!",
    "The mug's handle: it's CURVED (really).",
    "café naïve 日本語 😀 Größe ½",
    "unbelievablyovercomplicatedness",
    "&lt;b&gt;50 &amp;amp; 60&lt;/b&gt;   two\n lines",
    "ΟΔΟΣ of İstanbul",
    "",
]


HTML = [
    ("<p>A mug<br>and a <b class='x'>lid</b>.<br/></p><!-- no > more -->", "A mug and a lid ."),
    ("&lt;br&gt;Two &amp;amp; three", "Two & three"),
    ("Ages <3 and > 2, width<5, a<b>c", "Ages <3 and > 2, width<5, a c"),
]


@pytest.mark.parametrize(("text", "clean"), HTML)
def test_tags_go_where_that_is_asked_for(text, clean):
    assert clean_text(text, strip_tags=True) == clean
    assert "<" in clean_text(text)


@pytest.fixture(scope="module")
def clip():
    return ClipPieces()


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_tokenizer(clip, text):
    if "İ" in text:
        text = text.replace("İ", "I")  # its lower case is two characters, which the next test is about
    cleaned = clean_text(text)
    assert clip.pieces(cleaned).ids.tolist() == clip.tokenizer.encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_every_character_belongs_to_a_piece_in_order(clip, text):
    cleaned = clean_text(text)
    found = clip.pieces(cleaned)
    covered = np.zeros(len(cleaned), bool)
    for start, end in zip(found.start, found.end, strict=True):
        assert 0 <= start < end <= len(cleaned)
        covered[start:end] = True
    assert [c for c, seen in zip(cleaned, covered, strict=True) if not seen and not c.isspace()] == []
    assert (np.diff(found.start) >= 0).all()


def test_letters_that_grow_in_lower_case_keep_later_offsets(clip):
    text = "İİİ red mug"
    assert clip.words(text, [(8, 11)]).ids.tolist() == clip.tokenizer.encode("mug")


def test_words_get_their_pieces_and_the_position_of_the_first(clip):
    text = "a dishwasher-safe teapot"
    words = clip.words(text, [(2, 12), (18, 24), (18, 20)])
    encode = clip.tokenizer.encode
    parts = np.split(words.ids, words.offsets[1:-1])
    assert [part.tolist() for part in parts[:2]] == [encode("dishwasher"), encode("teapot")]
    before = len(encode("a dishwasher-safe"))
    assert words.position.tolist() == [2, before + 1, before + 1]
    assert not words.cut.any()


def test_the_positions_are_those_of_the_77_tokens(clip):
    text = "mug " * 74 + "teapot kite lamp"
    tokens = clip.tokenizer(text)[0].tolist()
    at = [4 * 74, 4 * 74 + 7, 4 * 74 + 12]
    words = clip.words(text, [(at[0], at[0] + 6), (at[1], at[1] + 4), (at[2], at[2] + 4)])
    parts = np.split(words.ids, words.offsets[1:-1])
    assert words.cut.tolist() == [False, True, True]
    assert words.position.tolist() == [75, 75, 75]
    assert tokens[75] == parts[0][0]
    assert [part.tolist() for part in parts[1:]] == [clip.tokenizer.encode(word) for word in ("kite", "lamp")]


def test_a_word_across_the_cut_keeps_all_its_pieces(clip):
    word = "unbelievablyovercomplicatedness"
    text = "mug " * 74 + word
    found = clip.words(text, [(4 * 74, len(text))])
    assert found.ids.tolist() == clip.tokenizer.encode(word)
    assert len(found.ids) > 1
    assert (found.position[0], found.cut[0]) == (75, False)


def test_no_spans_and_spans_of_spaces(clip):
    assert clip.words("a mug", []).offsets.tolist() == [0]
    assert clip.words("a mug", [(1, 2)]).ids.tolist() == clip.tokenizer.encode(".")


def test_cleaning():
    assert clean_text(" Salt &amp;amp; pepper\u00a0mill \n schÃ¶n ") == "Salt & pepper mill schön"


def test_tokenizers_of_another_make_are_refused():
    with pytest.raises(MmfastError, match="got a object, whose pieces cannot be traced"):
        ClipPieces(object())
