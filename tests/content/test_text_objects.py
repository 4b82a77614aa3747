"""Objects in texts: Eq. 3 by hand, the fallback chain, ablations, contexts, and the demo's nouns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmfast.content.parse import POS, Parses
from mmfast.content.text_objects import WIDER, WITHOUT_POS, WITHOUT_SYP, ObjectRule, TextObjects, choose_objects
from mmfast.errors import MmfastError

RELATIONS = ("", "ROOT", "compound", "conj", "det", "dobj", "nsubj", "nsubjpass", "pobj")
# One item per line: word:part of speech:relation[:lemma]
ITEMS = (
    "A:DET:det mug:NOUN:nsubj holds:VERB:ROOT coffee:NOUN:dobj in:ADP: Mugs:NOUN:pobj:mug it:PRON:nsubj",
    "red:ADJ: teapot:NOUN:ROOT lid:NOUN:compound",
    "Acme:PROPN:nsubj Kite:PROPN:ROOT",
    "so:ADV:ROOT red:ADJ:",
    "",
    "lamps:NOUN:nsubjpass:lamp sold:VERB:ROOT",
)


@pytest.fixture
def parses():
    texts, starts, ends, pos, relations, lemmas, counts = [], [], [], [], [], [], []
    for line in ITEMS:
        words = [[*word.split(":"), None][:4] for word in line.split()]
        texts.append(" ".join(word for word, *_ in words))
        counts.append(len(words))
        at = 0
        for word, tag, relation, lemma in words:
            starts.append(at)
            ends.append(at + len(word))
            at += len(word) + 1
            pos.append(POS.index(tag))
            relations.append(RELATIONS.index(relation))
            lemmas.append(lemma or word.lower())
    arrays = [np.array(values, kind) for values, kind in ((starts, "i4"), (ends, "i4"), (pos, "u1"), (relations, "u1"))]
    return Parses(texts, np.concatenate([[0], np.cumsum(counts)]), *arrays, lemmas, RELATIONS)


def words(objects):
    return [objects.words(item) for item in range(len(objects))]


def test_nouns_that_are_subject_or_object_each_lemma_once(parses):
    objects = choose_objects(parses)
    assert words(objects)[0] == ["mug", "coffee"]
    assert objects.spans(0) == [(2, 5), (12, 18)]
    assert objects.lemmas[:2] == ["mug", "coffee"]


def test_the_fallbacks_and_their_counts(parses):
    objects = choose_objects(parses)
    assert words(objects)[1:] == [["teapot", "lid"], ["Acme", "Kite"], ["so red"], [], ["lamps"]]
    assert objects.counts() == {"rule": 1, "pos_only": 2, "proper_nouns": 1, "whole_text": 1, "no_text": 1}
    assert objects.offsets.tolist() == [0, 2, 4, 6, 7, 7, 8]
    assert objects.word.tolist() == [1, 3, 1, 2, 0, 1, -1, 0]


def test_a_lone_joiner_is_no_object(parses):
    lone = Parses(
        ["mug \u200d", "\u200d \ufe0f"],
        np.array([0, 2, 4]),
        *(
            np.array(values)
            for values in ([0, 4, 0, 2], [3, 5, 1, 3], [POS.index("NOUN")] * 4, [RELATIONS.index("nsubj")] * 4)
        ),
        ["mug", "\u200d", "\u200d", "\ufe0f"],
        RELATIONS,
    )
    for rule in (ObjectRule(), WIDER, WITHOUT_POS, WITHOUT_SYP):
        objects = choose_objects(lone, rule)
        assert words(objects) == [["mug"], []] and objects.counts()["no_text"] == 1


def test_both_sets_can_be_widened(parses):
    passive = choose_objects(parses, ObjectRule(relations=("nsubj", "dobj", "pobj", "nsubjpass")))
    assert passive.counts()["rule"] == 2
    names = choose_objects(parses, ObjectRule(pos=("NOUN", "PROPN")))
    assert names.words(2) == ["Acme"]
    assert names.step[2] == 0
    assert [choose_objects(parses, WIDER).words(item) for item in (2, 5)] == [["Acme"], ["lamps"]]
    assert choose_objects(parses, WIDER).counts()["rule"] == 3


def test_the_ablations_drop_one_test_each(parses):
    assert choose_objects(parses, WITHOUT_SYP).words(1) == ["teapot", "lid"]
    assert choose_objects(parses, WITHOUT_SYP).counts()["rule"] == 3
    assert choose_objects(parses, WITHOUT_POS).words(0) == ["mug", "coffee", "it"]
    assert choose_objects(parses, WITHOUT_POS).words(1) == ["teapot", "lid"]


@pytest.mark.parametrize(
    ("k", "expected"), [(1, "coffee"), (2, "coffee in"), (3, "holds coffee in"), (4, "holds coffee in Mugs")]
)
def test_contexts_are_windows_of_k_words(parses, k, expected):
    assert choose_objects(parses).contexts(0, k)[1] == expected


def test_contexts_are_cut_at_the_ends_and_whole_for_whole_texts(parses):
    objects = choose_objects(parses)
    assert objects.contexts(0, 16)[0] == objects.texts[0]
    assert objects.contexts(5, 2) == ["lamps sold"]
    assert objects.contexts(3) == ["so red"]
    with pytest.raises(MmfastError, match="k=0"):
        objects.contexts(0, 0)


def test_they_survive_a_file(parses, tmp_path):
    objects = choose_objects(parses)
    objects.save(tmp_path / "objects")
    again = TextObjects.load(tmp_path / "objects")
    assert (again.texts, again.lemmas, words(again)) == (objects.texts, objects.lemmas, words(objects))
    assert again.contexts(0, 3) == objects.contexts(0, 3)
    np.testing.assert_array_equal(again.step, objects.step)


def test_no_items_at_all(tmp_path):
    none = np.zeros(0, np.int32)
    objects = choose_objects(Parses([], np.zeros(1, np.int64), none, none, none, none, [], RELATIONS))
    objects.save(tmp_path / "objects")
    assert len(TextObjects.load(tmp_path / "objects")) == 0
    assert sum(objects.counts().values()) == 0


@pytest.mark.parametrize(("given", "name"), [("obj", "dobj"), ("nsubj:pass", "nsubjpass"), ("nsubj:outer", "nsubj")])
def test_universal_relations_that_are_renamed_are_refused(parses, given, name):
    universal = replace(parses, relations=(*RELATIONS, "nsubj:outer", "nsubj:pass", "obj", "obl"))
    with pytest.raises(MmfastError, match=rf"relations '{given}' is unknown. Did you mean '{name}'\?"):
        choose_objects(universal, ObjectRule(relations=(given,)))
    choose_objects(universal, ObjectRule(relations=("obl", name)))


def test_unknown_names_and_an_empty_rule_are_refused(parses):
    with pytest.raises(MmfastError, match=r"pos 'NOUNS' is unknown. Did you mean 'NOUN'\?"):
        choose_objects(parses, ObjectRule(pos=("NOUNS",)))
    with pytest.raises(MmfastError, match=r"relations 'obj' is unknown. Did you mean '.obj'"):
        choose_objects(parses, ObjectRule(relations=("obj",)))
    with pytest.raises(MmfastError, match="both pos and relations are empty"):
        choose_objects(parses, ObjectRule(pos=(), relations=()))
