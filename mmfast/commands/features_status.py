"""What the store of computed content holds, and what is there, missing and failed of a data set, stage by stage."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmfast.content.status import Catalogue, Coverage
    from mmfast.content.store import Store

EXAMPLES = """examples:
  mmfast features status
  mmfast features status demo
  mmfast features status data/shop --pictures photos --json      every item with its reason

missing: never tried, changed since, or there is nothing to try with; failed: tried in vain. With DATA, pictures are
hashed and entries of the store compared with their hash; without, entries are only counted. Labels from a CSV file or
from a demo's truth are not kept in the store.
"""
SHOWN = 3  # reasons of failures in the store
ITEMS = 5  # items that are named; all of them with --json
LONG_HASH = re.compile(r"[0-9a-f]{24,}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features status`."""
    from mmfast.features import PICTURES

    parser.epilog = EXAMPLES
    parser.add_argument("data", nargs="?", help="demo, a data set's name, or a prepared or plain folder")
    parser.add_argument("--pictures", action="append", default=[], metavar="FOLDER", help=PICTURES)
    parser.add_argument("--root", help="folder that holds the data sets (MMFAST_DATA, else ./data)")
    parser.add_argument("--json", action="store_true", help="one JSON object, with all items and reasons")


def run(args: argparse.Namespace) -> int:
    """Print the entries of the store by kind and model, the failures, and the stages of the data set."""
    from mmfast.commands.features_data import ANSWERS
    from mmfast.content.status import coverage
    from mmfast.content.store import Store

    store = Store()
    catalogue = None if args.data is None else _catalogue(args)
    stages = [] if catalogue is None else coverage(catalogue, store, store.folder / ANSWERS)
    if args.json:
        told: dict[str, Any] = {"store": store_facts(store)}
        if catalogue is not None:
            told["data"] = {
                "folder": str(catalogue.folder),
                "items": len(catalogue.ids),
                "pictures_found": catalogue.pictures is not None,
                "stages": [one.to_json() for one in stages],
            }
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return 0
    print("\n".join(store_lines(store)))
    if catalogue is not None:
        print("\n".join(data_lines(catalogue, stages)))
    return 0


def _catalogue(args: argparse.Namespace) -> Catalogue:
    from mmfast.commands.features_data import items_of
    from mmfast.content.status import Catalogue
    from mmfast.errors import MmfastError

    items = items_of(args)
    try:
        return Catalogue(items.folder, items.pictures())
    except MmfastError:
        return Catalogue(items.folder, None)


def store_facts(store: Store) -> dict[str, Any]:
    """Return the folder, entries and bytes by kind and model, failures by kind and reason, and counts of answers."""
    from mmfast.commands.features_data import ANSWERS
    from mmfast.content.answers import count_answers

    kinds: dict[str, Any] = {}
    for kind in store.kinds():
        count, size = Counter(), Counter()
        for entry in store.entries(kind):
            model = str(entry.note.get("model", ""))
            count[model] += 1
            size[model] += entry.num_bytes
        entries = {model: {"entries": count[model], "bytes": size[model]} for model in count}
        kinds[kind] = {"models": entries, "failed": dict(Counter(store.failures(kind).values()).most_common())}
    return {"folder": str(store.folder), "kinds": kinds, "answers": count_answers(store.folder / ANSWERS)}


def store_lines(store: Store) -> list[str]:
    """Return a line per kind and model, the reasons of failures with their number, and a line per file of answers."""
    from mmfast.commands.features_data import count_line

    facts = store_facts(store)
    lines = [f"store {store.folder}"]
    for kind, about in facts["kinds"].items():
        for model, one in about["models"].items():
            lines.append(f"  {kind} {_short(model)}: {one['entries']:,} entries, {one['bytes'] / 2**20:,.1f} MiB")
        reasons = about["failed"]
        lines += [f"  {kind} failed: {number:,} x {reason}" for reason, number in list(reasons.items())[:SHOWN]]
        if len(reasons) > SHOWN:
            lines.append(f"  {kind} failed: {sum(reasons.values()):,} in all, for {len(reasons)} reasons")
    for name, counts in facts["answers"].items():
        lines.append("  " + count_line(f"answers {name}", counts))
    return lines if len(lines) > 1 else [*lines, "  nothing is there yet"]


def data_lines(catalogue: Catalogue, stages: list[Coverage]) -> list[str]:
    """Return a line per stage and model, and below it a line per reason why items are not there, with some items."""
    from mmfast.content.status import STAGES

    lines = [f"data {catalogue.folder}: {len(catalogue.ids):,} items"]
    if catalogue.pictures is None:
        lines.append(
            "  no item has a picture here: masks and descriptions of pictures elsewhere need --pictures FOLDER"
        )
    for stage in STAGES:
        own = [one for one in stages if one.stage == stage]
        lines += [] if own else [f"  {stage}: none"]
        for one in own:
            counts = f"{one.there:,} there, {len(one.missing):,} missing, {len(one.failed):,} failed"
            lines.append(f"  {stage}, {_short(one.by)}: {counts}" + (f" ({one.note})" if one.note else ""))
            lines += [*_reason_lines("missing", one.missing), *_reason_lines("failed", one.failed)]
    return lines


def _reason_lines(what: str, reasons: Mapping[str, str]) -> list[str]:
    """Return the commonest reasons, each with its number of items and the first few of them."""
    items = defaultdict(list)
    for item, reason in reasons.items():
        items[reason].append(item)
    common = sorted(items.items(), key=lambda pair: -len(pair[1]))
    lines = []
    for reason, named in common[:ITEMS]:
        more = f" and {len(named) - ITEMS:,} more" if len(named) > ITEMS else ""
        lines.append(f"    {what}: {', '.join(named[:ITEMS])}{more}: {reason}")
    if left := sum(len(named) for _, named in common[ITEMS:]):
        lines.append(f"    {what}: {left:,} more for {len(common) - ITEMS} other reasons (--json lists all)")
    return lines


def _short(name: str) -> str:
    return LONG_HASH.sub(lambda found: found[0][:12], name)
