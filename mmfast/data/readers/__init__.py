"""Readers of the formats in which the data are published; each turns a folder into `RawData`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmfast.data.raw import RawData
from mmfast.data.readers import amazon2014, amazon2018, amazon2023, microlens, mmrec, plain
from mmfast.data.readers.files import Sources
from mmfast.errors import MmfastError, suggest


@dataclass(frozen=True)
class Format:
    """`find(folder)` names the files without reading them (None: not this format); `read` reads them."""

    find: Callable[[Path], Sources | None]
    read: Callable[[Sources, str], RawData]
    k_core: int = 0


# From the most to the least specific name: the first that matches is taken.
FORMATS: dict[str, Format] = {
    "mmrec": Format(mmrec.find, mmrec.read),
    "plain": Format(plain.find, plain.read),
    "microlens": Format(microlens.find, microlens.read, k_core=5),
    "amazon2014": Format(amazon2014.find, amazon2014.read, k_core=5),
    "amazon2023": Format(amazon2023.find, amazon2023.read, k_core=5),
    "amazon2018": Format(amazon2018.find, amazon2018.read, k_core=5),
}


def find_sources(folder: Path, name: str = "auto") -> Sources:
    """Return the source files of a folder in format `name`, or in the first format that matches.

    Raises MmfastError for an unknown format, or when no file has a known name.
    """
    if not folder.is_dir():
        raise MmfastError(f"'{folder}' is not a folder; give the folder that holds the source files")
    if name != "auto" and name not in FORMATS:
        raise MmfastError(f"unknown format '{name}'.{suggest(name, FORMATS)} Known: auto, {', '.join(FORMATS)}")
    for candidate in FORMATS if name == "auto" else (name,):
        found = FORMATS[candidate].find(folder)
        if found is not None:
            return found
    files = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise MmfastError(
        f"'{folder}' holds no data of format {name} ({files}); want NAME.inter, interactions.csv[.gz] or .parquet, "
        "ratings_*.csv or reviews_*.json.gz, *.jsonl[.gz], or a *_pairs.csv"
    )


def read_sources(sources: Sources, split_column: str = "split") -> RawData:
    """Return the raw data of `sources`; `split_column` names the column with the labels of a given split."""
    return FORMATS[sources.format].read(sources, split_column)
