"""Reads CoNLL-U treebanks: words with their part of speech, lemma, head and relation, sentence by sentence."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmfast.errors import MmfastError

COLUMNS = 10
PARTS = ("train", "dev")


@dataclass(frozen=True)
class Word:
    """One syntactic word; `head` is a position in its sentence from 0, its own for the root."""

    form: str
    lemma: str
    upos: str
    head: int
    relation: str
    space_after: bool


@dataclass(frozen=True)
class Sentence:
    """The words of a sentence; `opens_text` says that a new text of the treebank begins with it."""

    words: tuple[Word, ...]
    opens_text: bool


def treebank_files(folder: Path | str) -> dict[str, Path]:
    """Return the files of the parts "train" and "dev" of a treebank folder: `*-train.conllu`, perhaps with `.gz`.

    Raises MmfastError when a part is absent or several files could be it.
    """
    files = {}
    for part in PARTS:
        found = sorted({*Path(folder).glob(f"*-{part}.conllu"), *Path(folder).glob(f"*-{part}.conllu.gz")})
        if len(found) != 1:
            raise MmfastError(
                f"treebank '{folder}': got {len(found)} files for the part '{part}', want one *-{part}.conllu[.gz]; "
                "Universal Dependencies treebanks such as UD_English-EWT (https://universaldependencies.org) have them"
            )
        files[part] = found[0]
    return files


def read_conllu(path: Path | str) -> Iterator[Sentence]:
    """Yield the sentences of a `.conllu` or `.conllu.gz` file; multiword ranges and empty nodes are left out.

    Words inside a multiword token ("do" and "n't") have no space between them; the token's own line says what follows.
    Raises MmfastError with the line number for a line of another layout, and for a head that is no word.

    >>> next(read_conllu("en_ewt-ud-dev.conllu.gz")).words[0].upos                # 'ADP'
    """
    rows: list[list[str]] = []
    opens, opening = False, 0
    for number, line in enumerate(_lines(Path(path)), 1):
        if line.startswith("#"):
            opens = opens or line.startswith("# newdoc")
        elif line:
            opening = opening or number
            rows.append(_row(line, f"{path}, line {number}"))
        elif rows:
            yield Sentence(_words(rows, f"{path}, sentence of line {opening}"), opens)
            rows, opens, opening = [], False, 0
    if rows:
        yield Sentence(_words(rows, f"{path}, sentence of line {opening}"), opens)


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise MmfastError(f"treebank: cannot read '{path}': {error}") from error


def _row(line: str, place: str) -> list[str]:
    row = line.split("\t")
    if len(row) != COLUMNS:
        raise MmfastError(f"{place}: got {len(row)} columns, want the {COLUMNS} of CoNLL-U separated by tabs")
    return row


def _words(rows: list[list[str]], place: str) -> tuple[Word, ...]:
    """Return the words of one sentence's rows [n][10]."""
    kept = [row for row in rows if row[0].isdigit()]
    numbers = {row[0]: n for n, row in enumerate(kept)}
    space = {row[0]: "SpaceAfter=No" not in row[9].split("|") for row in kept}
    for row in rows:
        first, dash, last = row[0].partition("-")
        if dash:
            inside = [str(n) for n in range(int(first), int(last) + 1)]
            space |= dict.fromkeys(inside, False) | {last: "SpaceAfter=No" not in row[9].split("|")}
    words = []
    for n, row in enumerate(kept):
        if row[6] != "0" and row[6] not in numbers:
            raise MmfastError(f"{place}: the head '{row[6]}' of '{row[1]}' is no word of the sentence")
        head = n if row[6] == "0" else numbers[row[6]]
        words.append(Word(row[1], row[2], row[3], head, "ROOT" if row[6] == "0" else row[7], space[row[0]]))
    return tuple(words)
