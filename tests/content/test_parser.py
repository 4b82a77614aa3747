"""A pipeline trained in seconds on a toy treebank: scores, determinism, labels, lemmas, and the parses of texts."""

from __future__ import annotations

from multiprocessing import get_context

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from mmfast.content import parse as parsing
from mmfast.content import worker_pool
from mmfast.content.parse import POS, ParseConfig, load_pipeline, parse_texts, relation_of
from mmfast.content.store import Store
from mmfast.content.train_parser import ParserSettings, train_parser
from mmfast.errors import MmfastError
from tests.content.treebank import write_treebank

SETTINGS = ParserSettings(epochs=6, rows=(200, 100, 100, 100), width=32, learning_rate=0.005, recase=0.1)
TEXTS = ["We put a mug on the table.", "", "The lamp is sold with the kite.", "We put a mug on the table."]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trained pipeline, its scores, and what was told."""
    folder, told = tmp_path_factory.mktemp("parser"), []
    scores = train_parser(write_treebank(folder / "toy"), folder / "en", SETTINGS, told.append)
    return folder, scores, told


@pytest.fixture(scope="module")
def parse(trained):
    return ParseConfig(pipeline=str(trained[0] / "en"))


@pytest.fixture(scope="module")
def nlp(parse):
    return load_pipeline(parse)


@pytest.fixture
def loaded(nlp, monkeypatch):
    """Parsing takes the pipeline that is loaded already: reading it takes longer than the parsing of these texts."""
    monkeypatch.setattr(parsing, "load_pipeline", lambda config: nlp)


def test_it_learns_and_tells(trained):
    _, scores, told = trained
    assert scores["tag"] > 95
    assert scores["las"] > 90
    assert [line.partition(" ")[0] for line in told] == ["360", *["epoch"] * 6, "kept:"]


def test_the_scores_and_settings_stay_with_the_pipeline(trained, nlp):
    meta = nlp.meta
    assert meta["performance"] == pytest.approx(trained[1])
    assert meta["mmfast"] == SETTINGS.model_dump(mode="json")


def test_one_seed_gives_one_pipeline(trained, tmp_path):
    short = SETTINGS.model_copy(update={"epochs": 1, "sentences": 40})
    for name in ("a", "b"):
        train_parser(trained[0] / "toy", tmp_path / name, short, lambda line: None)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).rglob("model")} for name in ("a", "b"))
    assert first == second


def test_an_existing_folder_is_not_replaced(trained):
    with pytest.raises(MmfastError, match="exists already"):
        train_parser(trained[0] / "toy", trained[0] / "en", SETTINGS)


def test_universal_labels_become_the_three_relations(nlp):
    doc = nlp("The lamp holds the mug. We put a kite on the table. The chair is sold with the lamp.")
    relations = {(token.text, token.dep_, relation_of(token, True)) for token in doc if token.pos_ == "NOUN"}
    assert {("lamp", "nsubj", "nsubj"), ("mug", "obj", "dobj"), ("table", "obl", "pobj")} <= relations
    assert ("chair", "nsubj:pass", "nsubjpass") in relations


def test_the_object_of_a_preposition_is_one_wherever_the_preposition_hangs():
    words = "It is for the kitchen , with a lid and from Ann 's shop".split()
    heads = [4, 4, 4, 4, 4, 8, 8, 8, 4, 13, 13, 13, 11, 8]
    deps = "nsubj cop case det ROOT punct case det obl cc case nmod:poss case conj".split()
    pos = "PRON AUX ADP DET NOUN PUNCT ADP DET NOUN CCONJ ADP PROPN PART NOUN".split()
    doc = Doc(spacy.blank("en").vocab, words, heads=heads, deps=deps, pos=pos)
    found = {token.text: relation_of(token, True) for token in doc if token.pos_ in ("NOUN", "PROPN")}
    assert found == {"kitchen": "pobj", "lid": "pobj", "Ann": "nmod:poss", "shop": "pobj"}


def test_usual_labels_stay():
    doc = Doc(
        spacy.blank("en").vocab, ["mug", "on", "table"], heads=[0, 0, 1], deps=["ROOT", "case", "obl"], pos=["NOUN"] * 3
    )
    assert [relation_of(token, False) for token in doc] == ["ROOT", "case", "obl"]


def test_parses_are_in_the_order_of_the_texts_and_kept(parse, loaded, tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = parse_texts(TEXTS, parse, store=store)
    assert first.texts == TEXTS
    assert np.diff(first.offsets).tolist() == [8, 0, 8, 8]
    words = [first.texts[0][start:end] for start, end in zip(first.start[:8], first.end[:8], strict=True)]
    assert words == ["We", "put", "a", "mug", "on", "the", "table", "."]
    assert [POS[code] for code in first.pos[8:11]] == ["DET", "NOUN", "AUX"]
    assert first.relations[first.relation[3]] == "dobj"
    monkeypatch.setattr("mmfast.content.parse._words", None)  # nothing is parsed again
    second = parse_texts(TEXTS, parse, store=store)
    for name in ("offsets", "start", "end", "pos", "relation"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.lemmas == second.lemmas


def test_a_block_that_was_lost_comes_back_the_same(parse, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("mmfast.content.parse.BLOCK", 4)
    monkeypatch.setattr("mmfast.content.parse.BATCH", 2)
    texts = [f"The {a} holds the {b}." for a in ("mug", "lamp", "kite", "chair") for b in ("table", "bottle", "sun")]
    store = Store(tmp_path)
    parse_texts(texts, parse, store=store)
    files = sorted(tmp_path.rglob("*.entry"))
    before = {path: path.read_bytes() for path in files}
    assert len(files) > 2
    files[1].unlink()
    parse_texts(texts, parse, store=store)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.entry"))} == before


def test_a_new_text_parses_its_own_block_anew(parse, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("mmfast.content.parse.BLOCK", 8)
    texts = [f"The mug holds {n:03d} kites." for n in range(100)]
    store, parsed, whole = Store(tmp_path), [], parsing._parse_block
    monkeypatch.setattr(parsing, "_parse_block", lambda *given: parsed.append(len(given[-1])) or whole(*given))
    first = parse_texts(texts, parse, store=store)
    assert sum(parsed) == 100 and len(parsed) > 8
    parsed.clear()
    second = parse_texts(["A mug.", *texts[:50], "The mug holds 050 bottles.", *texts[50:]], parse, store=store)
    assert 0 < len(parsed) <= 6 and sum(parsed) < 60
    new = np.repeat([text not in texts for text in second.texts], np.diff(second.offsets))
    assert second.relation[~new].tolist() == first.relation.tolist()


def test_several_processes_parse_alike(parse, loaded, tmp_path, monkeypatch):
    # Forked: a spawned process spends seconds on its imports.
    monkeypatch.setattr(worker_pool, "get_context", lambda name: get_context("fork"))
    monkeypatch.setattr(parsing, "BLOCK", 1)
    one = parse_texts(TEXTS, parse, store=Store(tmp_path / "one"))
    here, whole = [], parsing._parse_block
    monkeypatch.setattr(parsing, "_parse_block", lambda *given: here.append(given) or whole(*given))
    two = parse_texts(TEXTS, parse.model_copy(update={"processes": 2}), store=Store(tmp_path / "two"))
    np.testing.assert_array_equal(one.relation, two.relation)
    assert one.lemmas == two.lemmas and not here


def test_a_text_too_long_names_its_item(parse, loaded, tmp_path):
    long = ["A mug.", "The mug " * 200_000]
    with pytest.raises(MmfastError, match="text of item 'b' has 1,599,999 characters; spaCy takes at most 1,000,000"):
        parse_texts(long, parse, ids=["a", "b"], store=Store(tmp_path))
    with pytest.raises(MmfastError, match=r"text number 1 \(from 0\) has 1,599,999 characters"):
        parse_texts(long, parse, store=Store(tmp_path))


def test_plurals_have_the_lemma_of_the_treebank_or_of_the_rules(nlp):
    lemmas = {token.text: token.lemma_ for token in nlp("The mugs holds the boxes.")}
    assert lemmas["mugs"] == "mug"


def test_absent_and_unfit_pipelines_are_explained(tmp_path):
    with pytest.raises(MmfastError, match=r"'en_no_such_sm' cannot be loaded.*spacy download.*train-parser"):
        load_pipeline(ParseConfig(pipeline="en_no_such_sm"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "meta.json").write_text('{"lang": "en", "name": "torn", "version": "1"}')
    for config, told in (("[paths]\ntr", r"Config validation error\)"), ("[nlp]\nlang = ", "[^)]*language")):
        (tmp_path / "torn" / "config.cfg").write_text(config)
        with pytest.raises(MmfastError, match=rf"torn' cannot be loaded \({told}"):
            load_pipeline(ParseConfig(pipeline=str(tmp_path / "torn")))
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(MmfastError, match="has no components; want one with a parser"):
        load_pipeline(ParseConfig(pipeline=str(tmp_path / "blank")))
