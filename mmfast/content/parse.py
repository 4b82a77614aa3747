"""Texts tagged and parsed by a spaCy pipeline, kept in the store: words with part of speech, relation and lemma."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, PositiveInt

from mmfast.config import Config
from mmfast.content.bpe import clean_text
from mmfast.content.progress import Meter
from mmfast.content.store import Store, content_key
from mmfast.content.weights import need_package
from mmfast.data.hashing import hash_file, hash_json
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

KIND = "parse"
BLOCK = 256  # texts per entry of the store
BATCH = 64  # texts that spaCy computes at once; it divides BLOCK, so that every text is always in the same batch
# A space in front of the list: words without a part of speech.
POS = (" ", "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT")
POS += ("SCONJ", "SYM", "VERB", "X", "SPACE")
UNIVERSAL = {"nsubj": "nsubj", "nsubj:outer": "nsubj", "nsubj:pass": "nsubjpass", "obj": "dobj"}
# What a noun with a preposition can be in Universal Dependencies: 95 of 100 are obl or nmod, the others mostly nouns
# that are a sentence's predicate or fragment ("It is for the kitchen.", "With a lid.") or joined to another such noun.
WITH_CASE = ("obl", "nmod", "ROOT", "conj", "advcl", "ccomp", "xcomp", "acl", "parataxis", "orphan", "appos", "list")
MAPPING = 2  # raised with every change of what `relation_of` gives
Arrays = dict[str, np.ndarray]


class ParseConfig(Config):
    """Which pipeline reads the texts, and how."""

    pipeline: str = Field("en_core_web_sm", min_length=1)
    """An installed English spaCy pipeline, or the folder of one, such as `mmfast features train-parser` writes."""
    processes: PositiveInt = 1
    """Processes that parse side by side; the result is the same."""
    gpu: bool = False
    """Run the pipeline on the GPU (for en_core_web_trf)."""


@dataclass(frozen=True)
class Parses:
    """Cleaned texts and their words, ragged: the words of text n are offsets[n] : offsets[n + 1].

    start, end int32 [W]: characters in the text; pos uint8 [W]: place in POS; relation uint8 [W]: place in `relations`
    (nsubj, nsubjpass, dobj, pobj, and the pipeline's own labels for all others); lemmas: lower case, one per word.
    """

    texts: list[str]
    offsets: np.ndarray
    start: np.ndarray
    end: np.ndarray
    pos: np.ndarray
    relation: np.ndarray
    lemmas: list[str]
    relations: tuple[str, ...]


def parse_texts(
    texts: Sequence[str], config: ParseConfig | None = None, *, store: Store | None = None, show: bool = False
) -> Parses:
    """Return the words of every text, from the store where it has them.

    Texts are cleaned first (`clean_text`); equal ones are parsed once. Raises MmfastError when spaCy or the pipeline is
    not installed, or the pipeline does not tag and parse.

    >>> parses = parse_texts(["A red mug."], ParseConfig(pipeline="parser"))       # doctest: +SKIP
    """
    config, store = config or ParseConfig(), store or Store()
    cleaned = [clean_text(text) for text in texts]
    nlp = load_pipeline(config)
    relations = relation_names(nlp)
    unique, ranges = blocks_of(cleaned)
    model, settings = pipeline_identity(nlp), {"batch": BATCH, "relations": list(relations), "mapping": MAPPING}
    keys = [content_key(kind=KIND, model=model, settings=settings, inputs=unique[slice(*block)]) for block in ranges]
    recipe = {"model": model, "settings": settings}
    entries: dict[int, Arrays] = {}
    with Meter("parsing", len(unique), "texts", show) as meter:
        for n, key in enumerate(keys):
            entry = store.get(KIND, key)
            if entry is not None:
                entries[n] = entry
                meter.add(len(entry["offsets"]) - 1, cached=True)
        absent = [n for n in range(len(ranges)) if n not in entries]
        blocks = [unique[slice(*ranges[n])] for n in absent]
        for n, entry in zip(absent, _parse_blocks(nlp, blocks, relations, config, meter), strict=True):
            store.put(KIND, keys[n], entry, {"model": model, "texts": len(entry["offsets"]) - 1, "recipe": recipe})
            entries[n] = entry
    places = {text: n for n, text in enumerate(unique)}
    return _gather(cleaned, [places[text] for text in cleaned], [entries[n] for n in range(len(ranges))], relations)


def blocks_of(cleaned: Sequence[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the different cleaned texts in the order in which they are parsed, and (start, stop) of their blocks."""
    unique = sorted(set(cleaned), key=lambda text: (len(text), text))
    return unique, [(first, min(first + BLOCK, len(unique))) for first in range(0, len(unique), BLOCK)]


def load_pipeline(config: ParseConfig) -> Language:
    """Return the spaCy pipeline of a config. Raises MmfastError that says where to get one when it is not there."""
    need_package("spacy", "objects of texts")
    import spacy

    if config.gpu and not spacy.prefer_gpu():
        raise MmfastError("gpu=True, but spaCy finds no GPU (it needs cupy); set gpu=False")
    try:
        nlp = spacy.load(Path(config.pipeline) if Path(config.pipeline).is_dir() else config.pipeline, exclude=["ner"])
    except (OSError, ValueError) as error:
        raise MmfastError(
            f"the spaCy pipeline '{config.pipeline}' cannot be loaded ({str(error).splitlines()[0]}). Install it: "
            "`python -m spacy download en_core_web_sm` (https://spacy.io/models/en); or train a small one in minutes: "
            "`mmfast features train-parser TREEBANK OUT`, and give the folder OUT"
        ) from None
    if "parser" not in nlp.pipe_names or not {"dobj", "obj"} & set(nlp.get_pipe("parser").labels):
        raise MmfastError(
            f"the spaCy pipeline '{config.pipeline}' has {', '.join(nlp.pipe_names) or 'no components'}; want one with "
            "a parser of English relations (dobj, or obj of Universal Dependencies), such as en_core_web_sm"
        )
    return nlp


def pipeline_identity(nlp: Language) -> str:
    """Return name, version and a hash of all files of a loaded pipeline, and spaCy's version."""
    import spacy

    folder = nlp.path
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    content = hash_json([[path.relative_to(folder).as_posix(), hash_file(path)] for path in files])
    return f"{nlp.meta['lang']}_{nlp.meta['name']}-{nlp.meta['version']}:{content[:32]}:spacy-{spacy.__version__}"


def relation_names(nlp: Language) -> tuple[str, ...]:
    """Return all relations that `relation_of` can give for a pipeline; "" first, for words without one."""
    return ("", *sorted({*nlp.get_pipe("parser").labels, *UNIVERSAL.values(), "pobj", "dep", "ROOT"}))


def relation_of(token: Token, universal: bool) -> str:
    """Return nsubj, nsubjpass, dobj or pobj for a word in that role, else the parser's own label.

    The usual English pipelines have these labels. Of Universal Dependencies, nsubj stays, nsubj:pass is nsubjpass, obj
    is dobj, and a word with a preposition (a child `case` other than 's) is pobj, whatever it hangs on (WITH_CASE).
    """
    label = token.dep_
    if not universal:
        return label
    base, _, subtype = label.partition(":")
    prepositions = (child for child in token.children if child.dep_ == "case" and child.pos_ != "PART")
    if base in WITH_CASE and subtype != "poss" and any(prepositions):
        return "pobj"
    return UNIVERSAL.get(label, label)


def _parse_blocks(
    nlp: Language, blocks: list[list[str]], relations: tuple[str, ...], config: ParseConfig, meter: Meter
) -> Iterator[Arrays]:
    """Yield the entry of each block; all but the last of all blocks have BLOCK texts, so batches never cross them."""
    universal = "obj" in nlp.get_pipe("parser").labels
    codes = {name: code for code, name in enumerate(relations)}
    texts = [text for block in blocks for text in block]
    too_long = max(map(len, texts), default=0)
    if too_long > nlp.max_length:
        raise MmfastError(f"a text has {too_long:,} characters; spaCy takes at most {nlp.max_length:,}: shorten it")
    docs = nlp.pipe(texts, batch_size=BATCH, n_process=config.processes)
    for block in blocks:
        rows, lengths = [], []
        for _ in block:
            doc = next(docs)
            words = _words(doc, universal, codes)
            rows += words
            lengths.append(len(words))
            meter.add()
        start, end, pos, relation, lemmas = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        yield {
            "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            "start": np.array(start, np.int32),
            "end": np.array(end, np.int32),
            "pos": np.array(pos, np.uint8),
            "relation": np.array(relation, np.uint8),
            "lemmas": np.frombuffer("\n".join(lemmas).encode(), np.uint8).copy(),
        }


def _words(doc: Doc, universal: bool, codes: dict[str, int]) -> list[tuple[Any, ...]]:
    if len(doc) and not (doc.has_annotation("DEP") and doc.has_annotation("POS")):
        raise MmfastError("the spaCy pipeline sets no parts of speech or no relations; want a tagger and a parser")
    # Without a lemmatizer a word stands for itself.
    return [
        (
            token.idx,
            token.idx + len(token),
            POS.index(token.pos_ or " "),
            codes.get(relation_of(token, universal), 0),
            "".join((token.lemma_ or token.text).lower().split("\n")),
        )
        for token in doc
    ]


def _gather(texts: list[str], places: list[int], entries: list[Arrays], relations: tuple[str, ...]) -> Parses:
    """Put the words of the unique texts into the order of the items."""
    sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(entry["offsets"]) for entry in entries)])
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    lemmas = [lemma for entry in entries for lemma in _lemmas(entry)]
    rows = np.concatenate([np.zeros(0, np.int64), *(np.arange(starts[n], starts[n + 1]) for n in places)])
    joined = {
        name: np.concatenate([np.zeros(0, kind), *(entry[name] for entry in entries)])[rows]
        for name, kind in (("start", np.int32), ("end", np.int32), ("pos", np.uint8), ("relation", np.uint8))
    }
    offsets = np.concatenate([[0], np.cumsum(sizes[places])]).astype(np.int64)
    return Parses(texts, offsets, **joined, lemmas=[lemmas[row] for row in rows.tolist()], relations=relations)


def _lemmas(entry: Arrays) -> list[str]:
    return entry["lemmas"].tobytes().decode().split("\n") if len(entry["start"]) else []
