"""List the models and training frameworks, or the options of one: name, type, default, meaning."""

from __future__ import annotations

import argparse
import inspect
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

EXAMPLES = """examples:
  mmfast models
  mmfast models lightgcn
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
    from mmfast.commands.show import table

    module = inspect.getmodule(entry)
    sentence = (inspect.getdoc(module) or inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")
    lines = [f"{name} ({kind}): {sentence}"]
    options = [option_row(key, field) for key, field in entry.Config.model_fields.items() if key != "name"]
    return "\n".join([*lines, *("  " + line for line in table(options).splitlines())]) if options else lines[0]


def option_row(key: str, field: Any) -> list[str]:
    """Return [name, type = default, meaning] of a config field."""
    return [key, f"{kind_text(field.annotation)} = {field.default!r}", " ".join((field.description or "").split())]


def kind_text(annotation: Any) -> str:
    """Return a type as a person writes it.

    >>> kind_text(Literal["concat", "channels"] | None)
    "'concat' | 'channels' | None"
    """
    if annotation is type(None):
        return "None"
    if get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(kind_text(part) for part in get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
