"""Make a prepared folder of published or own files, or verify one (also `python -m mmfast.prepare`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmfast.data.build import Settings, build
from mmfast.data.cache import source_record
from mmfast.data.dataset import PARTS
from mmfast.data.locate import core_of
from mmfast.data.manifest import is_prepared, read_manifest
from mmfast.data.notes import HELD_OUT, dropped_counts
from mmfast.data.prepared import verify_prepared
from mmfast.data.readers import FORMATS, find_sources, read_sources
from mmfast.data.splits import COLD_SEED, DEFAULT_SEED
from mmfast.errors import MmfastError

EXAMPLES = """examples:
  mmfast prepare downloads/baby data/baby --k-core 5 --split mmrec
  mmfast prepare shop data/shop --split leave-one-out --features image text=title_vectors.npy
  mmfast prepare data/shop --verify                    is every file as it was written?

A folder with plain files holds interactions.csv (columns user, item; optionally time, split), items.csv (id, title) and
one .npy per modality, a row per item. Data can also be trained on as they are: mmfast train model=bpr data=shop
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb to a parser."""
    parser.add_argument("source", type=Path, help="folder with the source files; with --verify, a prepared folder")
    parser.add_argument("out", type=Path, nargs="?", help="folder to write")
    parser.add_argument("--format", default="auto", help=f"auto, {', '.join(FORMATS)}")
    parser.add_argument("--k-core", type=int, help="drop users and items with fewer rows (raw files: 5, others: 0)")
    parser.add_argument(
        "--split",
        default="auto",
        help="auto (the split the data carry, else mmrec), column, mmrec, lattice, leave-one-out, user-time, "
        "time[:0.8,0.9] or cold",
    )
    parser.add_argument("--split-column", default="split", help="column with the labels of a given split")
    parser.add_argument("--seed", type=int, help=f"seed of a random split ({DEFAULT_SEED}; cold: {COLD_SEED})")
    parser.add_argument("--cold-users", default="drop", help="drop or keep held-out rows of users without a train row")
    parser.add_argument("--features", nargs="+", metavar="MODALITY[=FILE]", help="take these only, or from these files")
    parser.add_argument("--name", help="name of the data set (the folder's name)")
    parser.add_argument("--verify", action="store_true", help="hash every file of a prepared folder and check it")
    parser.add_argument("--force", action="store_true", help="replace an existing folder")


def run(args: argparse.Namespace) -> int:
    """Prepare or verify as the arguments say; return 0. Raises MmfastError for anything the user can put right."""
    if args.verify:
        with _stages() as stage:
            stage("hashing")
            files = verify_prepared(args.source)
        print(f"{args.source}: {len(files)} files are as they were written")
        return 0
    if args.out is None:
        raise MmfastError("mmfast prepare: no folder to write; give SOURCE OUT")
    with _stages() as stage:
        folder = prepare(
            args.source,
            args.out,
            format=args.format,
            k_core=args.k_core,
            split=args.split,
            split_column=args.split_column,
            seed=args.seed,
            cold_users=args.cold_users,
            features=_features(args.features),
            name=args.name,
            replace=args.force,
            stage=stage,
        )
    Console(markup=False).print(summary(read_manifest(folder)))
    return 0


def prepare(
    source: Path | str,
    out: Path | str,
    *,
    format: str = "auto",
    k_core: int | None = None,
    split: str = "auto",
    split_column: str = "split",
    seed: int | None = None,
    cold_users: str = "drop",
    features: list[str] | dict[str, str] | None = None,
    name: str | None = None,
    replace: bool = False,
    stage: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the prepared folder `out` from the files of `source` and return its path.

    k_core None: 5 for raw files, none for others; seed None: 999, for the cold split 123. `stage` is told what is
    done. Raises MmfastError when `out` exists (unless it is a prepared folder and `replace`), when one of the two
    folders holds the other, or when the files cannot be used.
    """
    source, out = Path(source), Path(out)
    _check_apart(source, out)
    if out.exists() and not replace:
        raise MmfastError(f"'{out}' exists already; choose another folder, or pass --force to replace it")
    if is_prepared(source):
        raise MmfastError(f"'{source}' is prepared already; give the folder of its source files, or load it as it is")
    stage("looking for files")
    sources = find_sources(source, format)
    sources.choose(features)
    settings = Settings(split, seed, core_of(sources.format, k_core), cold_users, split_column)
    stage("hashing the source files")
    record = source_record(sources)
    stage("reading interactions")
    raw = read_sources(sources, split_column)
    return build(raw, settings, out, name=name, source=record, replace=replace, stage=stage)


def _check_apart(source: Path, out: Path) -> None:
    here, there = source.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise MmfastError(
            f"mmfast prepare: '{out}' is, contains or lies inside the source '{source}'; "
            f"choose a folder beside it, such as '{here}-prepared'"
        )


def summary(manifest: Mapping[str, Any]) -> Table:
    """Return the table that says what a prepared folder holds and what was left out on the way."""
    table = Table(title=f"{manifest['name']}: prepared", show_header=False)
    table.add_row("users", f"{manifest['num_users']:,}")
    table.add_row("items", f"{manifest['num_items']:,}")
    for part in PARTS:
        table.add_row(f"rows, {part}", f"{manifest['rows'][part]:,}")
    seed = manifest["split"].get("seed")
    table.add_row("split", manifest["split"]["rule"] + (f", seed {seed}" if seed is not None else ""))
    table.add_row("k-core", str(manifest["k_core"] or "none"))
    for modality, about in manifest["features"].items():
        rows, dim = about["shape"]
        encoder = f"{rows:,} x {dim} {about['dtype']}, encoder {about['encoder']}, {len(about['missing']):,} missing"
        table.add_row(f"features, {modality}", encoder)
    if not manifest["features"]:
        table.add_row("features", "none")
    for what, number in dropped_counts(manifest).items():
        table.add_row(f"dropped, {what}", f"{number:,}")
    for part, number in manifest.get(HELD_OUT, {}).items():
        if number:
            table.add_row(f"{part} pairs that are in train too", f"{number:,}")
    for name, why in manifest["source"].get("passed_over", {}).items():
        table.add_row(f"not features, {name}", why)
    return table


def _features(given: list[str] | None) -> list[str] | dict[str, str] | None:
    if given is None:
        return None
    pairs = [entry.partition("=") for entry in given]
    if all(not equals for _, equals, _ in pairs):
        return [modality for modality, _, _ in pairs]
    if all(equals and file for _, equals, file in pairs):
        return {modality: file for modality, _, file in pairs}
    raise MmfastError(f"--features {' '.join(given)}: give modalities, or MODALITY=FILE for all of them, not a mixture")


@contextmanager
def _stages() -> Iterator[Callable[[str], None]]:
    """Show the stage that runs and its time on standard error; silent when that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting")
        yield lambda text: progress.update(task, description=text)


def main(arguments: list[str] | None = None) -> int:
    """Run the verb on its own; an error of the user's is printed as one sentence and gives 2."""
    from mmfast.cli import main as run_verb

    return run_verb(["prepare", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
