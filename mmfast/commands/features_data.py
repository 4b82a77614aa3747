"""What the stages of `mmfast features` share: arguments that name data and settings, and the items they stand for."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmfast.config import Config
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    import polars as pl

    from mmfast.content.answers import Usage
    from mmfast.content.images import Pictures
    from mmfast.content.label import Labels

ANSWERS = "answers"  # folder of the store that receives what language models say


@dataclass(frozen=True)
class Items:
    """The items of a data set: their table, the prepared folder, and where pictures are looked for."""

    table: pl.DataFrame
    folder: Path
    roots: list[Path | str]

    @property
    def ids(self) -> list[str]:
        """Original ids in the order of the items."""
        return self.table["id"].to_list()

    def texts(self) -> list[str]:
        """Return the standard string of every item."""
        from mmfast.content.item_texts import item_texts

        return item_texts(self.table)

    def pictures(self) -> Pictures:
        """Return the picture file of every item. Raises MmfastError when no item has one."""
        from mmfast.content.images import find_pictures

        return find_pictures(self.table, self.roots)


def add_data_arguments(
    parser: argparse.ArgumentParser, kind: type[Config], examples: str, pictures: bool = True
) -> None:
    """Declare data, `key=value` settings of `kind`, and where things lie; the help lists every setting.

    pictures: whether the stage reads any, and so takes the folders of them.
    """
    from mmfast.commands.train import settings_table
    from mmfast.features import PICTURES

    parser.epilog = f"{examples}\nsettings:\n{settings_table(kind)}"
    parser.add_argument("data", help="demo, a data set's name, or a prepared or plain folder")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of this stage")
    if pictures:
        parser.add_argument("--pictures", action="append", default=[], metavar="FOLDER", help=PICTURES)
    else:
        parser.set_defaults(pictures=[])
    parser.add_argument("--root", help="folder that holds the data sets (MMFAST_DATA, else ./data)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def items_of(args: argparse.Namespace) -> Items:
    """Return the items of the data set that the arguments name."""
    from mmfast.data.load import prepared_folder
    from mmfast.data.prepared import read_table

    check_folders(args.pictures)
    folder, source = prepared_folder(args.data, root=args.root)
    return Items(read_table(folder, "items.parquet"), folder, [*args.pictures, source, folder])


def check_folders(folders: Sequence[str]) -> None:
    """Raise MmfastError when one of the folders of pictures is not there: other folders might hide the mistake."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise MmfastError(f"--pictures: there is no folder '{folder}'; give the folder of the picture files")


def status_command(args: argparse.Namespace) -> str:
    """Return the command that lists every item of the data with the reason why it is not there."""
    root = ["--root", args.root] if args.root else []
    folders = [word for folder in args.pictures for word in ("--pictures", folder)]
    return shlex.join(["mmfast", "features", "status", args.data, *root, *folders, "--json"])


def count_line(what: str, counts: Mapping[str, int]) -> str:
    """Return one line of counts.

    >>> count_line("labels", {"exact": 1200, "failed": 3})
    'labels: 1,200 exact, 3 failed'
    """
    return f"{what}: " + ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items())


def usage_lines(usage: Usage) -> list[str]:
    """Return the lines that say what answers took."""
    counts = {"new in this run": usage.new, "requests": usage.requests}
    counts |= {"tokens in": usage.prompt_tokens, "tokens out": usage.completion_tokens}
    return [count_line("answers, whichever run asked", counts), f"their cost: {usage.cost:.4f}"]


def cut_lines(labels: Labels) -> list[str]:
    """Return the line that tells of texts of which the model saw only the beginning, none where there are none."""
    return [f"texts longer than text_limit, cut for the model: {labels.cut:,}"] if labels.cut else []
