"""Which pieces of CLIP's tokenizer a word of a text is made of, and at which of its 77 positions they stand."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mmfast.content.weights import need_package
from mmfast.errors import MmfastError

Span = tuple[int, int]
# An element's name right after the bracket: "sizes < 5 and > 3" and "<3" are no tags.
TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>", re.DOTALL)


def clean_text(text: str, strip_tags: bool = False) -> str:
    """Return the text as CLIP's tokenizer cleans it, but for lower case: repaired characters, no HTML entities, single
    spaces. Offsets of words are offsets into this text. strip_tags: a space for every HTML tag, which CLIP leaves in.

    >>> clean_text(" Salt &amp;  pepper<br>"), clean_text("Salt &lt;b>mill&lt;/b>", strip_tags=True)
    ('Salt & pepper<br>', 'Salt mill')
    """
    need_package("ftfy", "cleaned texts")
    import ftfy

    whole = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join((TAG.sub(" ", whole) if strip_tags else whole).split())


@dataclass(frozen=True)
class Pieces:
    """The pieces of one text: ids int64 [P] and their characters [start, end) in the text, each int64 [P]."""

    ids: np.ndarray
    start: np.ndarray
    end: np.ndarray


@dataclass(frozen=True)
class WordPieces:
    """Pieces of words, ragged: those of word j are ids[offsets[j] : offsets[j + 1]].

    position int64 [words]: where the word's first piece stands (0 is the start token), the last usable one for words
    beyond the cut. cut bool [words]: the word lies beyond it, its pieces are those of the word alone.
    """

    offsets: np.ndarray
    ids: np.ndarray
    position: np.ndarray
    cut: np.ndarray


class ClipPieces:
    """Maps characters to pieces with open_clip's byte-pair tokenizer, the one of OpenAI's CLIP models.

    Raises MmfastError for tokenizers of another make (those of SigLIP and of Hugging Face models), and when open_clip
    is not installed.

    >>> pieces = ClipPieces()
    >>> pieces.words("a red teapot", [(6, 12)]).position
    array([3])
    """

    def __init__(self, tokenizer: Any = None) -> None:
        if tokenizer is None:
            need_package("open_clip", "pieces of CLIP's tokenizer")
            from open_clip.tokenizer import SimpleTokenizer

            tokenizer = SimpleTokenizer()
        if not all(hasattr(tokenizer, name) for name in ("bpe", "pat", "encoder", "byte_encoder", "context_length")):
            raise MmfastError(
                f"got a {type(tokenizer).__name__}, whose pieces cannot be traced to characters; want the tokenizer of "
                "an OpenAI CLIP model, open_clip.get_tokenizer('ViT-B-32-quickgelu')"
            )
        self.tokenizer = tokenizer
        self.length = int(tokenizer.context_length)
        self._word = lru_cache(maxsize=1 << 16)(self._split_word)

    def pieces(self, text: str) -> Pieces:
        """Return all pieces of a cleaned text, those beyond the cut too, without the start and end tokens."""
        lower, origin = _lower(text)
        ids: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        for match in self.tokenizer.pat.finditer(lower):
            for number, first, last in self._word(match.group()):
                ids.append(number)
                starts.append(origin[match.start() + first])
                ends.append(origin[match.start() + last] + 1)
        return Pieces(*(np.array(values, np.int64) for values in (ids, starts, ends)))

    def words(self, text: str, spans: Sequence[Span]) -> WordPieces:
        """Return the pieces that share characters with each span [start, end) of a cleaned text.

        A word cut in two by the limit keeps all its pieces; one beyond it gets the pieces of itself alone and the last
        usable position. A span of no pieces (only spaces) gets those of a full stop, at the place where it stands.
        """
        found, most = self.pieces(text), self.length - 2
        ids, position, cut = [], [], []
        for start, end in spans:
            inside = np.flatnonzero((found.start < end) & (found.end > start))
            first = int(inside[0]) if len(inside) else int((found.end <= start).sum())
            beyond = first >= most
            own = self.pieces(text[start:end]).ids if beyond else found.ids[inside]
            ids.append(own if len(own) else self.pieces(".").ids)
            position.append(min(first + 1, most))
            cut.append(beyond)
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64)
        values = np.concatenate([np.zeros(0, np.int64), *ids])
        return WordPieces(offsets, values, np.array(position, np.int64), np.array(cut, bool))

    def _split_word(self, word: str) -> tuple[tuple[int, int, int], ...]:
        """Return (id, first character, last character) of every piece of one of the tokenizer's words."""
        owner = [n for n, character in enumerate(word) for _ in character.encode()]
        symbols = "".join(self.tokenizer.byte_encoder[byte] for byte in word.encode())
        pieces, at = [], 0
        for piece in self.tokenizer.bpe(symbols).split(" "):
            stop = at + len(piece.removesuffix("</w>"))
            pieces.append((self.tokenizer.encoder[piece], owner[at], owner[stop - 1]))
            at = stop
        return tuple(pieces)


def _lower(text: str) -> tuple[str, Sequence[int]]:
    """Return the text in lower case and, for each of its characters, the place of the one that it came from."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower, range(len(text))
    # A few letters become two, such as the dotted capital I.
    letters = [character.lower() for character in text]
    return "".join(letters), [n for n, letter in enumerate(letters) for _ in letter]
