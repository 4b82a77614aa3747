"""Trains a small spaCy tagger and parser of English from a Universal Dependencies treebank, in minutes on one core."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from mmfast.config import Config
from mmfast.content.conllu import Sentence, Word, read_conllu, treebank_files
from mmfast.content.weights import need_package
from mmfast.data.storage import new_folder
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

SENTENCES_PER_TEXT = 10  # the parser also learns where sentences end, so it must see several in one text
FIRST_BATCH, LAST_BATCH = 200, 1000  # words per update in the first epoch, and at most in later ones
SMALL_WORDS = {"ADP", "CCONJ", "DET", "PART", "PUNCT"}
# Plurals that no word list knows; the first ending that leads to a listed noun wins, else the first that fits.
NOUN_ENDINGS = [["ies", "y"], ["ches", "ch"], ["shes", "sh"], ["sses", "ss"], ["xes", "x"], ["ss", "ss"], ["us", "us"]]
NOUN_ENDINGS += [["s", ""], ["", ""]]


class ParserSettings(Config):
    """How the pipeline is trained; the defaults give 2.7 MB."""

    epochs: PositiveInt = 8
    """Passes over the treebank; the one with the best dev TAG + LAS is kept."""
    width: PositiveInt = 64
    """Width of the word vectors."""
    rows: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2000, 500, 1000, 500)
    """Rows of the hash tables of normal forms, prefixes, suffixes and shapes."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of all layers."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size of Adam."""
    recase: float = Field(0.2, ge=0, le=1)
    """Share of texts shown in Title Case or all lower case: shop titles are written so, treebanks are not."""
    sentences: PositiveInt | None = None
    """Use only the first sentences of the training part; None: all."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of initialisation, order, dropout and recasing."""


def train_parser(
    treebank: Path | str,
    out: Path | str,
    settings: ParserSettings | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on a CoNLL-U folder, save a spaCy pipeline folder at `out`, and return its dev scores in percent.

    Tags are the Universal parts of speech and labels the treebank's own relations; `relation_of` in
    `mmfast.content.parse` says which of them are nsubj, dobj and pobj. The scores `tag`, `uas` and `las` (gold words,
    punctuation left out of the last two) are told after each epoch and kept in the pipeline's meta. One seed gives one
    pipeline on one machine.
    Raises MmfastError when spaCy or the treebank is absent and when `out` exists.

    >>> train_parser("data/ud-english-ewt", "parser", ParserSettings(epochs=8))     # {'tag': 93.6, ...}
    """
    settings = settings or ParserSettings()
    need_package("spacy", "parsers")
    from spacy.util import fix_random_seed

    if Path(out).exists():
        raise MmfastError(f"train-parser: '{out}' exists already; choose another folder, or remove it yourself")
    files = treebank_files(treebank)
    train = list(read_conllu(files["train"]))[: settings.sentences]
    dev = list(read_conllu(files["dev"]))
    say(f"{len(train):,} sentences to learn from, {len(dev):,} to check")
    fix_random_seed(settings.seed)
    nlp = _pipeline(settings, train)
    scores, weights = _fit(nlp, _texts(train), _texts(dev), settings, say)
    nlp.from_bytes(weights)
    nlp.meta["name"] = "mmfast_ud"
    nlp.meta["description"] = f"tagger and parser trained on {files['train'].name}"
    nlp.meta["performance"] = scores
    nlp.meta["mmfast"] = settings.model_dump(mode="json")
    with new_folder(Path(out)) as work:
        nlp.to_disk(work)
    say(f"kept: TAG {scores['tag']:.1f}  UAS {scores['uas']:.1f}  LAS {scores['las']:.1f}, in {out}")
    return scores


def _pipeline(settings: ParserSettings, train: list[Sentence]) -> Language:
    """Return an initialised pipeline: shared word vectors, tagger, parser, parts of speech and noun lemmas."""
    import spacy
    from spacy.lookups import Lookups

    nlp = spacy.blank("en")
    embed = {
        "@architectures": "spacy.MultiHashEmbed.v2",
        "width": settings.width,
        "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"],
        "rows": list(settings.rows),
        "include_static_vectors": False,
    }
    encode = {"@architectures": "spacy.MaxoutWindowEncoder.v2", "width": settings.width, "window_size": 1}
    encode |= {"maxout_pieces": 3, "depth": 4}
    nlp.add_pipe("tok2vec", config={"model": {"@architectures": "spacy.Tok2Vec.v2", "embed": embed, "encode": encode}})
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": settings.width}
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    parser = {"@architectures": "spacy.TransitionBasedParser.v2", "state_type": "parser", "extra_state_tokens": False}
    parser |= {"hidden_width": 64, "maxout_pieces": 2, "use_upper": True, "nO": None, "tok2vec": listener}
    nlp.add_pipe("parser", config={"model": parser})
    examples = [_example(nlp, text) for text in _texts(train)]
    nlp.initialize(lambda: examples)
    ruler = nlp.add_pipe("attribute_ruler")
    for upos in sorted({word.upos for sentence in train for word in sentence.words} - {"_"}):
        ruler.add([[{"TAG": upos}]], {"POS": upos})
    lookups = Lookups()
    for name, table in _noun_tables(train).items():
        lookups.add_table(name, {"noun": table})
    nlp.add_pipe("lemmatizer", config={"mode": "rule"}).initialize(nlp=nlp, lookups=lookups)
    return nlp


def _noun_tables(train: list[Sentence]) -> dict[str, Any]:
    """Return spaCy's tables for lemmas of nouns: known lemmas, endings, and forms that the endings get wrong."""
    nouns = [word for sentence in train for word in sentence.words if word.upos == "NOUN" and word.form.isalpha()]
    lemmas = sorted({word.lemma.lower() for word in nouns})
    seen = Counter((word.form.lower(), word.lemma.lower()) for word in nouns)
    irregular: dict[str, list[str]] = {}
    for (form, lemma), _ in seen.most_common():
        if not any(form.endswith(old) and form.removesuffix(old) + new == lemma for old, new in NOUN_ENDINGS):
            irregular.setdefault(form, [lemma])
    return {"lemma_index": lemmas, "lemma_rules": NOUN_ENDINGS, "lemma_exc": dict(sorted(irregular.items()))}


def _fit(
    nlp: Language,
    train: list[list[Sentence]],
    dev: list[list[Sentence]],
    settings: ParserSettings,
    say: Callable[[str], None],
) -> tuple[dict[str, float], bytes]:
    """Run the epochs and return the best dev scores with the pipeline's bytes of that epoch."""
    from spacy.training.batchers import minibatch_by_words
    from thinc.api import Adam

    optimizer = Adam(settings.learning_rate, L2=0.01, grad_clip=1.0, use_averages=True)
    rng, best = random.Random(settings.seed), ({"tag": -1.0, "las": -1.0}, b"")
    for epoch in range(settings.epochs):
        began, losses = time.monotonic(), {}
        rng.shuffle(train)
        examples = (_example(nlp, _recased(text, rng) if rng.random() < settings.recase else text) for text in train)
        size = min(LAST_BATCH, FIRST_BATCH * (epoch + 1))
        for batch in minibatch_by_words(examples, size=size):
            nlp.update(batch, sgd=optimizer, drop=settings.dropout, losses=losses)
        with nlp.use_params(optimizer.averages):
            scores = _scores(nlp, dev)
            if scores["tag"] + scores["las"] > best[0]["tag"] + best[0]["las"]:
                best = (scores, nlp.to_bytes())
        told = "  ".join(f"{name.upper()} {value:.1f}" for name, value in scores.items())
        loss = sum(losses.values())
        say(f"epoch {epoch + 1}/{settings.epochs}  loss {loss:.0f}  {told}  {time.monotonic() - began:.0f} s")
    return best


def _scores(nlp: Language, dev: list[list[Sentence]]) -> dict[str, float]:
    """Return dev accuracy in percent: tags, heads, and heads with labels."""
    found = nlp.evaluate([_example(nlp, text) for text in dev])
    return {short: 100 * found[long] for short, long in (("tag", "tag_acc"), ("uas", "dep_uas"), ("las", "dep_las"))}


def _texts(sentences: Iterable[Sentence]) -> list[list[Sentence]]:
    """Return the sentences in runs of at most SENTENCES_PER_TEXT that belong to one text."""
    texts: list[list[Sentence]] = []
    for sentence in sentences:
        if not texts or sentence.opens_text or len(texts[-1]) == SENTENCES_PER_TEXT:
            texts.append([])
        texts[-1].append(sentence)
    return texts


def _example(nlp: Language, text: list[Sentence]) -> Any:
    """Return spaCy's pair of a bare text and its annotation, both with the treebank's words."""
    from spacy.tokens import Doc
    from spacy.training import Example

    words = [word for sentence in text for word in sentence.words]
    heads, spaces = [], []
    for sentence in text:
        heads += [len(spaces) + word.head for word in sentence.words]
        spaces += [*(word.space_after for word in sentence.words[:-1]), True]
    forms = [word.form for word in words]
    tags, labels = [word.upos for word in words], [word.relation for word in words]
    gold: Doc = Doc(nlp.vocab, words=forms, spaces=spaces, tags=tags, heads=heads, deps=labels)
    return Example(Doc(nlp.vocab, words=forms, spaces=spaces), gold)


def _recased(text: list[Sentence], rng: random.Random) -> list[Sentence]:
    """Return the text in Title Case or all lower case."""
    title = rng.random() < 0.5

    def recase(word: Word) -> Word:
        if title and word.upos in SMALL_WORDS:
            return word
        form = word.form[:1].upper() + word.form[1:] if title else word.form.lower()
        return Word(form, word.lemma, word.upos, word.head, word.relation, word.space_after)

    return [Sentence(tuple(map(recase, sentence.words)), sentence.opens_text) for sentence in text]
