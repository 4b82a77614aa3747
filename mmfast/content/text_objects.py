"""Objects in texts, as TargetMR (WWW 2026) finds them: nouns that are a subject or an object (Eq. 1-3).

The paper's rule keeps nouns (NOUN) whose relation is nsubj, dobj or pobj. It says nothing of items without such a
noun, which are common among product titles: here the rule is relaxed step by step, and every item's step is recorded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.numpy

from mmfast.checkpoint import atomic_write
from mmfast.config import Config
from mmfast.content.bpe import ClipPieces, WordPieces
from mmfast.content.parse import POS, UNIVERSAL, ParseConfig, Parses, parse_texts, possible_relations
from mmfast.content.store import Store
from mmfast.errors import MmfastError, suggest

# How an item's objects were found; the item's number is its place here.
STEPS = ("rule", "pos_only", "proper_nouns", "whole_text", "no_text")
RULE, POS_ONLY, PROPER_NOUNS, WHOLE_TEXT, NO_TEXT = range(5)


class ObjectRule(Config):
    """Eq. 3: which words are objects."""

    pos: tuple[str, ...] = ("NOUN",)
    """Universal parts of speech; add PROPN for names. Empty: any (the ablation w/o POS)."""
    relations: tuple[str, ...] = ("nsubj", "dobj", "pobj")
    """Relations; add nsubjpass for passive subjects, or another label of the parser. Empty: any (ablation w/o SYP)."""


# Shops write in the passive ("the mug is shown with ...") and in Title Case, which taggers take for names.
WIDER = ObjectRule(pos=("NOUN", "PROPN"), relations=("nsubj", "nsubjpass", "dobj", "pobj"))
WITHOUT_POS = ObjectRule(pos=())
WITHOUT_SYP = ObjectRule(relations=())


@dataclass(frozen=True)
class TextObjects:
    """Objects of items, ragged: those of item v are offsets[v] : offsets[v + 1], in the order of the text.

    texts [I], cleaned; offsets int64 [I + 1]; start, end int32 [O]: characters in the item's text; word int32 [O]:
    place among the words of the text; lemmas [O]; step uint8 [I]: place in STEPS. Words of all texts, ragged:
    word_offsets int64 [I + 1], word_start and word_end int32 [W].
    An item of the step "whole_text" has one object, its whole text (word -1); one of "no_text" has none.
    """

    texts: list[str]
    offsets: np.ndarray
    start: np.ndarray
    end: np.ndarray
    word: np.ndarray
    lemmas: list[str]
    step: np.ndarray
    word_offsets: np.ndarray
    word_start: np.ndarray
    word_end: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def words(self, item: int) -> list[str]:
        """Return an item's objects as they stand in its text."""
        return [self.texts[item][start:end] for start, end in self.spans(item)]

    def spans(self, item: int) -> list[tuple[int, int]]:
        """Return the characters [start, end) of an item's objects."""
        rows = slice(*self.offsets[item : item + 2])
        return list(zip(self.start[rows].tolist(), self.end[rows].tolist(), strict=True))

    def contexts(self, item: int, k: int = 16) -> list[str]:
        """Return the k words round each object of an item as they stand in its text (Eq. 13), cut at the text's ends.

        The window runs from floor((k - 1) / 2) words before to ceil((k - 1) / 2) after; a whole text is its own.
        """
        if k < 1:
            raise MmfastError(f"contexts: got k={k}; want at least 1 word, the paper uses 16")
        first, last = self.word_offsets[item], self.word_offsets[item + 1] - 1
        found = []
        for word in self.word[slice(*self.offsets[item : item + 2])].tolist():
            if word < 0:
                found.append(self.texts[item])
                continue
            low, high = max(first, first + word - (k - 1) // 2), min(last, first + word + k // 2)
            found.append(self.texts[item][self.word_start[low] : self.word_end[high]])
        return found

    def pieces(self, item: int, clip: ClipPieces) -> WordPieces:
        """Return the pieces of CLIP's tokenizer of an item's objects, and their positions in the item's text."""
        return clip.words(self.texts[item], self.spans(item))

    def counts(self) -> dict[str, int]:
        """Return how many items were found by each step of STEPS."""
        return dict(zip(STEPS, np.bincount(self.step, minlength=len(STEPS)).tolist(), strict=True))

    def save(self, path: Path | str) -> None:
        """Write everything into one safetensors file, whole or not at all. Raises MmfastError where it cannot be."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        packed = {name: np.frombuffer("\n".join(getattr(self, name)).encode(), np.uint8) for name in _STRINGS}
        atomic_write(Path(path), partial(safetensors.numpy.save_file, {**arrays, **packed}))

    @classmethod
    def load(cls, path: Path | str) -> TextObjects:
        """Return what `save` wrote."""
        read = safetensors.numpy.load_file(Path(path))
        counts = {"texts": len(read["step"]), "lemmas": len(read["start"])}
        packed = {name: read[name].tobytes().decode().split("\n") if counts[name] else [] for name in _STRINGS}
        return cls(**{name: read[name] for name in _ARRAYS}, **packed)


_ARRAYS = ("offsets", "start", "end", "word", "step", "word_offsets", "word_start", "word_end")
_STRINGS = ("texts", "lemmas")


def find_text_objects(
    texts: Sequence[str],
    parse: ParseConfig | None = None,
    rule: ObjectRule | None = None,
    *,
    ids: Sequence[str] | None = None,
    store: Store | None = None,
    show: bool = False,
) -> TextObjects:
    """Return the objects of every text: parse (or read the parses from the store), then apply the rule.

    Another rule costs no new parsing. ids [I]: the items' names, for messages.
    Raises MmfastError as `parse_texts` and `choose_objects` do.

    >>> find_text_objects(["This mug keeps coffee warm."]).words(0)                # ['mug', 'coffee']
    """
    rule = rule or ObjectRule()
    _check(rule)
    return choose_objects(parse_texts(texts, parse, ids=ids, store=store, show=show), rule)


def choose_objects(parses: Parses, rule: ObjectRule | None = None) -> TextObjects:
    """Apply Eq. 3 to parsed texts; one object per lemma and item, its first mention.

    A word of marks, joiners and other format characters alone is no object. An item without one falls back to (1) the
    parts of speech alone, (2) nouns and proper nouns, (3) its whole text as one object. Raises MmfastError for a part
    of speech or a relation that there is not.
    """
    rule = rule or ObjectRule()
    _check(rule, possible_relations(parses.relations))
    num_items = len(parses.texts)
    item = np.repeat(np.arange(num_items), np.diff(parses.offsets))
    seen = np.array([visible(lemma) for lemma in parses.lemmas], bool)
    by_pos, nouns = _is_one_of(parses.pos, POS, rule.pos), _is_one_of(parses.pos, POS, ("NOUN", "PROPN"))
    by_pos, nouns = by_pos & seen, nouns & seen
    chosen = by_pos & _is_one_of(parses.relation, parses.relations, rule.relations)
    relaxed = by_pos if rule.pos else seen & _is_one_of(parses.pos, POS, ("NOUN",))
    step = np.full(num_items, WHOLE_TEXT, np.uint8)
    for number, words in ((PROPER_NOUNS, nouns), (POS_ONLY, relaxed), (RULE, chosen)):
        step[np.unique(item[words])] = number
    keep = np.choose(np.minimum(step[item], WHOLE_TEXT), [chosen, relaxed, nouns, np.zeros_like(chosen)])
    step[[not visible(text) for text in parses.texts]] = NO_TEXT
    return _collect(parses, item, np.flatnonzero(keep), step)


def visible(text: str) -> bool:
    """Whether a text has a character to be seen by itself: no space, mark, joiner, or other format character.

    >>> visible("\\u200d"), visible("a\\u200d")
    (False, True)
    """
    return text.isalnum() or any(unicodedata.category(character)[0] not in "CMZ" for character in text)


def _collect(parses: Parses, item: np.ndarray, rows: np.ndarray, step: np.ndarray) -> TextObjects:
    """Keep the first mention of each lemma, and give items of WHOLE_TEXT their one object."""
    whole = np.flatnonzero(step == WHOLE_TEXT).tolist()
    objects = [(v, 0, len(parses.texts[v]), -1, parses.texts[v].lower()) for v in whole]
    seen: set[tuple[int, str]] = set()
    for row in rows.tolist():
        v, lemma = int(item[row]), parses.lemmas[row]
        if (v, lemma) not in seen:
            seen.add((v, lemma))
            place = row - int(parses.offsets[v])
            objects.append((v, int(parses.start[row]), int(parses.end[row]), place, lemma))
    objects.sort(key=lambda found: found[:2])
    owner, start, end, word, lemmas = zip(*objects, strict=True) if objects else ((), (), (), (), ())
    counts = np.bincount(np.array(owner, np.int64), minlength=len(step))
    return TextObjects(
        texts=parses.texts,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        start=np.array(start, np.int32),
        end=np.array(end, np.int32),
        word=np.array(word, np.int32),
        lemmas=list(lemmas),
        step=step,
        word_offsets=parses.offsets,
        word_start=parses.start,
        word_end=parses.end,
    )


def _is_one_of(codes: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    if not wanted:
        return np.ones(len(codes), bool)
    return np.isin(codes, [names.index(name) for name in wanted])


def _check(rule: ObjectRule, relations: Sequence[str] | None = None) -> None:
    for what, wanted, known in (("pos", rule.pos, POS), ("relations", rule.relations, relations)):
        for name in wanted:
            if known is not None and name not in known:
                listed = ", ".join(name for name in known if name.strip())
                meant = suggest(UNIVERSAL.get(name, name), known)
                raise MmfastError(f"objects: {what} '{name}' is unknown.{meant} Known: {listed}")
    if not rule.pos and not rule.relations:
        raise MmfastError("objects: both pos and relations are empty, so every word would be an object; give one")
