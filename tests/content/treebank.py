"""A treebank of a few made-up sentences, repeated: enough for a pipeline that parses them after seconds of training."""

from __future__ import annotations

from pathlib import Path

NOUNS = ("mug", "lamp", "kite", "chair", "bottle", "table")
# (form, part of speech, head, relation); {0} and {1} are nouns.
PATTERNS = (
    "The:DET:2:det {0}:NOUN:3:nsubj holds:VERB:0:root the:DET:5:det {1}:NOUN:3:obj .:PUNCT:3:punct",
    "We:PRON:2:nsubj put:VERB:0:root a:DET:4:det {0}:NOUN:2:obj on:ADP:7:case the:DET:7:det {1}:NOUN:2:obl "
    ".:PUNCT:2:punct",
    "The:DET:2:det {0}:NOUN:4:nsubj:pass is:AUX:4:aux:pass sold:VERB:0:root with:ADP:7:case the:DET:7:det "
    "{1}:NOUN:4:obl .:PUNCT:4:punct",
    "Acme:PROPN:0:root Kites:PROPN:1:flat",
)


def write_treebank(folder: Path, repeats: int = 3) -> Path:
    """Write `toy-train.conllu` and `toy-dev.conllu` and return the folder."""
    sentences = [
        _sentence(pattern, first, second)
        for _ in range(repeats)
        for first in NOUNS
        for second in NOUNS
        if first != second
        for pattern in PATTERNS
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("train", sentences), ("dev", sentences[:24])):
        (folder / f"toy-{part}.conllu").write_text("# newdoc id = toy\n" + "\n".join(chosen), encoding="utf-8")
    return folder


def trained_parser(folder: Path) -> Path:
    """Return a pipeline below `folder`, trained by the command on the toy treebank."""
    from mmfast.cli import main

    command = ["features", "train-parser", str(write_treebank(folder / "treebank")), str(folder / "out"), "epochs=1"]
    assert main(command) == 0
    return folder / "out"


def _sentence(pattern: str, first: str, second: str) -> str:
    rows = []
    for n, word in enumerate(pattern.format(first, second).split(" "), 1):
        form, upos, head, relation = word.split(":", 3)
        rows.append(f"{n}\t{form}\t{form.lower()}\t{upos}\t_\t_\t{head}\t{relation}\t_\t_\n")
    return "".join(rows)
