"""Which candidate an answer names: exactly, or as another form of the same noun."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmfast.content.text_objects import TextObjects

EDGES = string.whitespace + string.punctuation + "“”„‘’‚«»‹›…–—·•¿¡。、"
IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "dice": "die",
    "scarves": "scarf",
    "shelves": "shelf",
    "knives": "knife",
    "loaves": "loaf",
    "leaves": "leaf",
}


@dataclass(frozen=True)
class Listing:
    """An item with its text and the objects named in it, as they stand there; `lemmas` are theirs, where known."""

    item: str
    text: str
    candidates: tuple[str, ...]
    lemmas: tuple[str, ...] = ()


def listings_of(items: Sequence[str], objects: TextObjects) -> list[Listing]:
    """Return the listing of every item: its cleaned text, the objects found in it, and their lemmas.

    items [I]: the user's ids. An item whose only object is its whole text has one candidate, so it is never asked.
    """
    listings = []
    for row, item in enumerate(items):
        start, stop = objects.offsets[row : row + 2].tolist()
        words, lemmas = tuple(objects.words(row)), tuple(objects.lemmas[start:stop])
        listings.append(Listing(item, objects.texts[row], words, lemmas))
    return listings


def match(answer: str, listing: Listing) -> tuple[int, str]:
    """Return the index of the candidate an answer names and how: exact, lemma, or (-1, "") when it names none.

    Quotes and punctuation at the ends, spaces and capitals do not count; the answer must be a candidate and nothing
    more. exact is what the in-scope rate counts; lemma also accepts another number of the same noun.

    >>> match('"Mugs."', Listing("a", "Two mugs on a table.", ("mugs", "table")))
    (0, 'exact')
    >>> match("mug", Listing("a", "Two mugs on a table.", ("mugs", "table")))
    (0, 'lemma')
    """
    said = _bare(answer)
    if not said:
        return -1, ""
    words = [_bare(candidate) for candidate in listing.candidates]
    if said in words:
        return words.index(said), "exact"
    for n, word in enumerate(words):
        known = _forms(word) | ({_bare(listing.lemmas[n])} if listing.lemmas else set())
        if _forms(said) & known:
            return n, "lemma"
    return -1, ""


def named(index: int, listing: Listing) -> bool:
    """Whether an index is that of a candidate."""
    return 0 <= index < len(listing.candidates)


def examples(answers: Sequence[str], most: int = 3) -> str:
    """Return a few different answers, shortened, for a message."""
    different = list(dict.fromkeys(" ".join(answer.split()) for answer in answers))
    return ", ".join(repr(text if len(text) <= 60 else text[:60] + "...") for text in different[:most])


def _bare(text: str) -> str:
    return " ".join(text.strip(EDGES).lower().split())


def _forms(word: str) -> set[str]:
    """Return a noun with what it may be the plural of; two nouns are forms of one when these sets meet."""
    forms = {word, IRREGULAR.get(word, word)}
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        forms.add(word[:-1])
        # Only these have it: "capes" is no plural of "cap".
        forms |= {word[:-2]} if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")) else set()
        forms |= {word[:-3] + "y"} if word.endswith("ies") else set()
    return forms
