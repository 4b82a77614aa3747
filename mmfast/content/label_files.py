"""Target labels that need no language model: a table made by hand, and the recorded truth of a demo catalogue."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmfast.checkpoint import write_text
from mmfast.content.label_answers import Listing, match, named
from mmfast.data.demo import demo_truth
from mmfast.data.prepared import read_prepared
from mmfast.errors import MmfastError
from mmfast.seeds import derive_seed

ITEM, INDEX, WORD = "item", "object_index", "word"
SHOWN = 3


def read_labels(path: Path | str, listings: Sequence[Listing]) -> dict[str, int]:
    """Return item -> index of its target object from a CSV file with the columns item, object_index and maybe word.

    Indices count from 0 in the order of the item's candidates; a word that is given must be that candidate, which it is
    not where the objects were found by another parser or rule. Items that are not in the file have no label.
    Raises MmfastError that lists rows with an unknown item, an index that is no candidate or of another word, or an
    item given twice.

    >>> read_labels("labels.csv", listings)  # doctest: +SKIP
    {'B000051SEN': 1}
    """
    known = {listing.item: listing for listing in listings}
    labels: dict[str, int] = {}
    wrong = []
    for line, row in enumerate(_rows(Path(path)), start=2):
        item, index = row[ITEM] or "", _index(row[INDEX])
        if item not in known:
            wrong.append(f"line {line}: there is no item '{item}'")
        elif item in labels:
            wrong.append(f"line {line}: item '{item}' is given twice")
        elif not named(index, known[item]):
            count = len(known[item].candidates)
            wrong.append(f"line {line}: item '{item}' has {count} objects, so {row[INDEX]!r} is none of 0..{count - 1}")
        elif row.get(WORD) and known[item].candidates[index] not in (row[WORD], ""):  # "": objects without words
            here = known[item].candidates[index]
            wrong.append(
                f"line {line}: object {index} of item '{item}' is '{here}', not '{row[WORD]}': the file was made with "
                "the objects of another parser, rule or text"
            )
        else:
            labels[item] = index
    if wrong:
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        told = "\n  ".join(wrong[:SHOWN])
        raise MmfastError(f"labels '{path}': {len(wrong)} rows cannot be used; correct or remove them:\n  {told}{more}")
    return labels


def write_labels(path: Path | str, targets: Sequence[int], listings: Sequence[Listing]) -> None:
    """Write the targets [I], -1 for none, of listings [I] as the file that `read_labels` reads, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([ITEM, INDEX, WORD])
    pairs = zip(listings, targets, strict=True)
    writer.writerows([one.item, index, one.candidates[index]] for one, index in pairs if index >= 0)
    write_text(Path(path), text.getvalue())


def demo_targets(folder: Path | str) -> dict[str, str]:
    """Return item -> the noun of what it sells, as recorded by the demo catalogue in `folder`.

    Raises MmfastError when the folder is no demo catalogue.
    """
    truth = demo_truth(folder)
    ids = read_prepared(folder).item_ids.to_list()
    targets = truth.filter(truth["is_target"])
    return {ids[item]: noun for item, noun in zip(targets["item"].to_list(), targets["noun"].to_list(), strict=True)}


def labels_from_truth(
    listings: Sequence[Listing], targets: Mapping[str, str], noise: float, failure_rate: float, seed: int
) -> tuple[dict[str, int], dict[str, str]]:
    """Return item -> index of the recorded target, spoilt as wanted, and item -> reason where there is no label.

    noise: share of items labelled with another candidate; failure_rate: share without a usable answer, as language
    models have them. Each item has its own random stream, so more items change nothing for the others.
    """
    labels, failures = {}, {}
    for listing in listings:
        rng = np.random.default_rng(derive_seed(seed, "label", listing.item))
        fails, errs, other = rng.random() < failure_rate, rng.random() < noise, rng.random()
        index, _ = match(targets.get(listing.item, ""), listing)
        if index < 0:
            failures[listing.item] = f"the target '{targets.get(listing.item)}' is not among the candidates"
        elif fails:
            failures[listing.item] = "no usable answer, as asked for by failure_rate"
        else:
            others = [n for n in range(len(listing.candidates)) if n != index]
            labels[listing.item] = others[int(other * len(others))] if errs and others else index
    return labels, failures


def _rows(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            if not names:
                raise MmfastError(f"labels '{path}': the file has no header; want the columns {ITEM},{INDEX}")
            if not {ITEM, INDEX} <= set(names):
                raise MmfastError(f"labels '{path}': got the columns {', '.join(names)}; want {ITEM},{INDEX}")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MmfastError(f"labels '{path}' cannot be read: {error}; give a CSV file in UTF-8") from error


def _index(text: str | None) -> int:
    digits = (text or "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() else -1
