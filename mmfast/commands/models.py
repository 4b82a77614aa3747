"""List the models and training frameworks, or the options of one: name, type, default, meaning."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

EXAMPLES = """examples:
  mmfast models
  mmfast models lightgcn

Options are set as model.KEY=VALUE: mmfast train model=lightgcn data=demo model.num_layers=3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast models`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model or framework: show its options only")


def run(args: argparse.Namespace) -> int:
    """Print the list, or the options of one name."""
    from mmfast.errors import MmfastError, suggest
    from mmfast.registry import FRAMEWORKS, MODELS

    known = {name: registry for registry in (MODELS, FRAMEWORKS) for name in registry.names()}
    if args.name is None:
        sections = [describe(registry.kind, name, registry.get(name)) for name, registry in known.items()]
        print("\n\n".join(sections))
        return 0
    if args.name not in known:
        raise MmfastError(f"unknown model '{args.name}'.{suggest(args.name, known)} Known: {', '.join(known)}")
    print(describe(known[args.name].kind, args.name, known[args.name].get(args.name)))
    return 0


def describe(kind: str, name: str, entry: Any) -> str:
    """Return a heading of one line, what the file says of itself, and one line per option."""
    from mmfast.commands.train import settings_table

    module = inspect.getmodule(entry)
    sentence = (inspect.getdoc(module) or inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")
    return f"{name} ({kind}): {sentence}\n{settings_table(entry.Config, leave_out=('name',))}".rstrip()
