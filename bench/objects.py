"""How often the demo's true target is among the objects found in its text and in its photo.

python bench/objects.py --parser FOLDER       the folder of a pipeline that `mmfast features train-parser` wrote
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from _origin import json_line

from mmfast.content.images import find_pictures
from mmfast.content.item_texts import item_texts
from mmfast.content.parse import ParseConfig, Parses, parse_texts
from mmfast.content.segment import segment
from mmfast.content.segment_light import LightSegmenter
from mmfast.content.store import Store
from mmfast.content.text_objects import WIDER, WITHOUT_POS, WITHOUT_SYP, ObjectRule, choose_objects
from mmfast.data import demo_words
from mmfast.data.demo import decode_mask, demo_folder, demo_truth

PASSIVES = ObjectRule(relations=("nsubj", "nsubjpass", "dobj", "pobj"))
RULES = {"paper": ObjectRule(), "paper and nsubjpass": PASSIVES, "wider": WIDER}
RULES |= {"w/o POS": WITHOUT_POS, "w/o SYP": WITHOUT_SYP}
# The demo's sentences in which the target is a passive subject, and those in which it is neither subject nor object.
PASSIVE = ("Our {T} is made", "The {N} is shown", "The {N} was photographed")
NEITHER = ("{a} [has|have] found a friend",)


def parsed(texts: list[str], parser: str) -> tuple[Parses, float]:
    """Return the parses, computed anew, and how many words were parsed per second of CPU time, loading included."""
    with tempfile.TemporaryDirectory() as empty:
        began = time.process_time()
        parses = parse_texts(texts, ParseConfig(pipeline=parser), store=Store(empty))
    return parses, len(parses.start) / (time.process_time() - began)


def noun_recall(parses: Parses, nouns: list[str], rule: ObjectRule) -> dict[str, object]:
    """Return the share of items whose target noun is an object, the mean number of objects, and the steps' counts."""
    objects = choose_objects(parses, rule)
    hits = [noun in (word.lower() for word in objects.words(item)) for item, noun in enumerate(nouns)]
    return {"noun_recall": np.mean(hits), "objects_per_item": len(objects.start) / len(nouns), **objects.counts()}


def perfect_recall(texts: list[str], nouns: list[str], left_out: tuple[str, ...]) -> float:
    """Return the share of items whose text names the target in a sentence that begins with none of `left_out`.

    Of the titles only "{A} beside {T}" makes the target an object. What a rule finds with the true parse of every text.
    """
    groups = (demo_words.OPENINGS, demo_words.COMPANY, demo_words.COMPANY_FIRST, demo_words.GROUND)
    sentences = ["{A} beside {T}.", *(text for group in (*groups, demo_words.CLOSINGS) for text in group)]
    kept = [text for text in sentences if re.search("{[TtN]}", text) and not text.startswith(left_out)]
    return np.mean([any(_says(text, one, noun) for one in kept) for text, noun in zip(texts, nouns, strict=True)])


def _says(text: str, sentence: str, noun: str) -> bool:
    """Whether a text has a sentence of the demo's with this noun as the target."""
    pattern = re.sub(r"\[([^|]*)\|([^]]*)\]", r"(?:\1|\2)", sentence)
    slots = {"N": noun, "T": rf"(?:[\w' -]+ )?{noun}", "t": rf"an? (?:[\w' -]+ )?{noun}"}
    pattern = re.sub(r"{(\w)}", lambda found: slots.get(found[1], r"[\w' -]+"), pattern)
    return re.search(pattern, text, re.IGNORECASE) is not None


def mask_overlaps(folder: Path, items: pl.DataFrame, truth: pl.DataFrame) -> tuple[np.ndarray, float]:
    """Return, per item, the best IoU of its masks with the target's true mask, and the CPU seconds of a photo."""
    with tempfile.TemporaryDirectory() as empty:
        began = time.process_time()
        masks = segment(find_pictures(items, [folder]), LightSegmenter(), store=Store(empty), show=True)
        seconds = (time.process_time() - began) / items.height
    best = np.zeros(items.height)
    for item, runs in enumerate(truth["mask"]):
        true = decode_mask(runs)
        best[item] = max(((true & mask).sum() / (true | mask).sum() for mask in masks.of(item)), default=0.0)
    return best, seconds


def main() -> None:
    """Measure, and print one line per figure, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parser", help="spaCy pipeline; without one only photos are measured")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = demo_folder(num_items=args.items)
    items = pl.read_parquet(folder / "items.parquet")
    truth = demo_truth(folder).filter("is_target").sort("item")
    rows = []
    if args.parser:
        texts, nouns = item_texts(items), truth["noun"].to_list()
        parses, speed = parsed(texts, args.parser)
        rows.append({"bench": "objects", "case": "parse", "words_per_cpu_s": speed})
        for name, rule in RULES.items():
            rows.append({"bench": "objects", "case": f"text, {name}", **noun_recall(parses, nouns, rule)})
        for name, left_out in (("paper", PASSIVE + NEITHER), ("wider", NEITHER)):
            recall = perfect_recall(texts, nouns, left_out)
            rows.append({"bench": "objects", "case": f"text, {name}, perfect parse", "noun_recall": recall})
    best, seconds = mask_overlaps(folder, items, truth)
    found = {"iou_0.7": np.mean(best >= 0.7), "mean_iou": best.mean(), "cpu_s_per_photo": seconds}
    rows.append({"bench": "objects", "case": "photo, light segmenter", **found})
    for row in rows:
        if args.json:
            print(json_line({name: value if isinstance(value, str) else float(value) for name, value in row.items()}))
        else:
            values = [f"{k} {v:.4g}" for k, v in row.items() if k not in ("bench", "case")]
            print(f"{row['case']}: {'  '.join(values)}")


if __name__ == "__main__":
    main()
