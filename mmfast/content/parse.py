"""Texts tagged and parsed by a spaCy pipeline, kept in the store: words with part of speech, relation and lemma."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, PositiveInt

from mmfast.config import Config
from mmfast.content.blocks import Blocks
from mmfast.content.bpe import clean_text
from mmfast.content.progress import Meter
from mmfast.content.store import Store, content_key
from mmfast.content.weights import first_line, need_package
from mmfast.content.worker_pool import worker_pool
from mmfast.data.hashing import hash_file, hash_json
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

KIND = "parse"
BLOCK = 256  # texts per entry of the store, in the mean: what a new or changed text parses anew
BATCH = 64  # texts that spaCy computes at once, counted from a block's first: a text is always in the same batch
# A space in front of the list: words without a part of speech.
POS = (" ", "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT")
POS += ("SCONJ", "SYM", "VERB", "X", "SPACE")
UNIVERSAL = {"nsubj": "nsubj", "nsubj:outer": "nsubj", "nsubj:pass": "nsubjpass", "obj": "dobj"}
# What a noun with a preposition can be in Universal Dependencies: 95 of 100 are obl or nmod, the others mostly nouns
# that are a sentence's predicate or fragment ("It is for the kitchen.", "With a lid.") or joined to another such noun.
WITH_CASE = ("obl", "nmod", "ROOT", "conj", "advcl", "ccomp", "xcomp", "acl", "parataxis", "orphan", "appos", "list")
MAPPING = 2  # raised with every change of what `relation_of` gives
Arrays = dict[str, np.ndarray]
_worker: list[Language] = []


class ParseConfig(Config):
    """Which pipeline reads the texts, and how."""

    pipeline: str = Field("en_core_web_sm", min_length=1)
    """An installed English spaCy pipeline, or the folder of one, such as `mmfast features train-parser` writes."""
    processes: PositiveInt = 1
    """Processes that parse side by side; the result is the same."""
    strip_tags: bool = False
    """Take HTML tags (<br>, <b>) out of the texts first. The papers say nothing of them; CLIP's cleaning keeps them."""
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
    texts: Sequence[str],
    config: ParseConfig | None = None,
    *,
    ids: Sequence[str] | None = None,
    store: Store | None = None,
    show: bool = False,
) -> Parses:
    """Return the words of every text, from the store where it has them.

    Texts are cleaned first (`clean_text` with `strip_tags`); equal ones are parsed once. ids [I]: names for messages.
    Raises MmfastError without spaCy or the pipeline, for one that does not tag and parse, and for a text too long.

    >>> parses = parse_texts(["A red mug."], ParseConfig(pipeline="parser"))       # doctest: +SKIP
    """
    config, store = config or ParseConfig(), store or Store()
    cleaned = [clean_text(text, config.strip_tags) for text in texts]
    nlp = load_pipeline(config)
    _check_lengths(cleaned, ids, nlp.max_length)
    relations = relation_names(nlp)
    blocks = Blocks.of(cleaned)
    ranges = blocks.ranges(BLOCK)
    settings = {"batch": BATCH, "relations": list(relations), "mapping": MAPPING, "strip_tags": config.strip_tags}
    recipe = {"model": pipeline_identity(nlp), "settings": settings}
    keys = [content_key(kind=KIND, **recipe, inputs=blocks.keys[slice(*one)]) for one in ranges]
    entries: dict[int, Arrays] = {}
    with Meter("parsing", len(blocks.keys), "texts", show) as meter:
        for n, key in enumerate(keys):
            entry = store.get(KIND, key)
            if entry is not None:
                entries[n] = entry
                meter.add(len(entry["offsets"]) - 1, cached=True)
        absent = [n for n in range(len(ranges)) if n not in entries]
        todo = [blocks.keys[slice(*ranges[n])] for n in absent]
        for n, entry in zip(absent, _parse_blocks(nlp, todo, relations, config), strict=True):
            entries[n], count = entry, len(entry["offsets"]) - 1
            store.put(KIND, keys[n], entry, {"model": recipe["model"], "texts": count, "recipe": recipe})
            meter.add(count)
    return _gather(cleaned, blocks.inverse, [entries[n] for n in range(len(ranges))], relations)


def load_pipeline(config: ParseConfig) -> Language:
    """Return the spaCy pipeline of a config. Raises MmfastError that says where to get one when it is not there."""
    need_package("spacy", "objects of texts")
    import spacy

    if config.gpu and not spacy.prefer_gpu():
        raise MmfastError("gpu=True, but spaCy finds no GPU (it needs cupy); set gpu=False")
    try:
        nlp = spacy.load(Path(config.pipeline) if Path(config.pipeline).is_dir() else config.pipeline, exclude=["ner"])
    except Exception as error:  # damaged files raise whatever the pipeline's parts do
        raise _no_pipeline(config.pipeline, first_line(error)) from None
    if "parser" not in nlp.pipe_names or not {"dobj", "obj"} & set(nlp.get_pipe("parser").labels):
        raise MmfastError(
            f"the spaCy pipeline '{config.pipeline}' has {', '.join(nlp.pipe_names) or 'no components'}; want one with "
            "a parser of English relations (dobj, or obj of Universal Dependencies), such as en_core_web_sm"
        )
    return nlp


def check_pipeline(name: str) -> None:
    """Raise MmfastError, as `load_pipeline` does, where no spaCy pipeline has this name; load nothing."""
    need_package("spacy", "objects of texts")
    from spacy.util import is_package

    if not Path(name).is_dir() and not is_package(name):
        raise _no_pipeline(name, "neither a folder nor an installed package")


def _no_pipeline(name: str, reason: str) -> MmfastError:
    return MmfastError(
        f"the spaCy pipeline '{name}' cannot be loaded ({reason}). Install it: `python -m spacy download "
        "en_core_web_sm` (https://spacy.io/models/en); or train a small one in minutes: `mmfast features train-parser "
        "TREEBANK OUT`, and give the folder OUT"
    )


def pipeline_identity(nlp: Language) -> str:
    """Return name, version and a hash of all files of a loaded pipeline, and spaCy's version."""
    import spacy

    folder = nlp.path
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    content = hash_json([[path.relative_to(folder).as_posix(), hash_file(path)] for path in files])
    return f"{nlp.meta['lang']}_{nlp.meta['name']}-{nlp.meta['version']}:{content[:32]}:spacy-{spacy.__version__}"


def relation_names(nlp: Language) -> tuple[str, ...]:
    """Return the names of all relations of a pipeline, before and after `relation_of`; "" first, for words without."""
    return ("", *sorted({*nlp.get_pipe("parser").labels, *UNIVERSAL.values(), "pobj", "dep", "ROOT"}))


def possible_relations(relations: Sequence[str]) -> tuple[str, ...]:
    """Return the relations that words can have, of `relation_names`: without the Universal ones that are renamed.

    >>> possible_relations(("", "dobj", "nsubj", "obj"))
    ('', 'dobj', 'nsubj')
    """
    renamed = {label for label, name in UNIVERSAL.items() if label != name} if "obj" in relations else set()
    return tuple(name for name in relations if name not in renamed)


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
    nlp: Language, blocks: list[list[str]], relations: tuple[str, ...], config: ParseConfig
) -> Iterator[Arrays]:
    """Yield the entry of each block; batches never cross them, so that a block does not depend on the others."""
    processes = min(config.processes, len(blocks))
    if processes > 1:
        with worker_pool(processes, _start_worker, config) as pool:
            yield from pool.map(partial(_parse_there, relations), blocks)
    else:
        yield from (_parse_block(nlp, relations, block) for block in blocks)


def _start_worker(config: ParseConfig) -> None:
    _worker[:] = [load_pipeline(config)]


def _parse_there(relations: tuple[str, ...], block: list[str]) -> Arrays:
    return _parse_block(_worker[0], relations, block)


def _parse_block(nlp: Language, relations: tuple[str, ...], block: list[str]) -> Arrays:
    universal = "obj" in nlp.get_pipe("parser").labels
    codes = {name: code for code, name in enumerate(relations)}
    rows, lengths = [], []
    for doc in nlp.pipe(block, batch_size=BATCH):
        words = _words(doc, universal, codes)
        rows += words
        lengths.append(len(words))
    start, end, pos, relation, lemmas = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "start": np.array(start, np.int32),
        "end": np.array(end, np.int32),
        "pos": np.array(pos, np.uint8),
        "relation": np.array(relation, np.uint8),
        "lemmas": np.frombuffer("\n".join(lemmas).encode(), np.uint8).copy(),
    }


def _check_lengths(texts: list[str], ids: Sequence[str] | None, most: int) -> None:
    for n, text in enumerate(texts):
        if len(text) > most:
            item = f"of item '{ids[n]}'" if ids is not None else f"number {n} (from 0)"
            raise MmfastError(f"the text {item} has {len(text):,} characters; spaCy takes at most {most:,}: shorten it")


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


def _gather(texts: list[str], places: np.ndarray, entries: list[Arrays], relations: tuple[str, ...]) -> Parses:
    """Put the words of the different texts into the order of the items; place -1, of no text, is the last and empty."""
    sizes = np.concatenate([*(np.diff(entry["offsets"]) for entry in entries), np.zeros(1, np.int64)])
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    places = places % len(sizes)
    lemmas = [lemma for entry in entries for lemma in _lemmas(entry)]
    rows = np.concatenate([np.zeros(0, np.int64), *(np.arange(starts[n], starts[n + 1]) for n in places.tolist())])
    joined = {
        name: np.concatenate([np.zeros(0, kind), *(entry[name] for entry in entries)])[rows]
        for name, kind in (("start", np.int32), ("end", np.int32), ("pos", np.uint8), ("relation", np.uint8))
    }
    offsets = np.concatenate([[0], np.cumsum(sizes[places])]).astype(np.int64)
    return Parses(texts, offsets, **joined, lemmas=[lemmas[row] for row in rows.tolist()], relations=relations)


def _lemmas(entry: Arrays) -> list[str]:
    return entry["lemmas"].tobytes().decode().split("\n") if len(entry["start"]) else []
