"""`mmfast <verb>`: finds the verb's file, parses its arguments, and prints errors for users without a traceback."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from mmfast import __version__
from mmfast.errors import MmfastError, ToldByFirst, suggest

# verb -> (module, one line of help). Only the chosen verb's module is imported, so --help needs no torch.
VERBS = {
    "train": ("mmfast.commands.train", "train a model by a YAML file and key=value arguments"),
    "search": ("mmfast.commands.search", "try settings in a grid, choose on validation, look at test once"),
    "plan": ("mmfast.commands.plan", "memory, traffic and time on devices that are not there, from small runs"),
    "study": ("mmfast.commands.study", "methods x models x seeds, one table: the tables of a paper by one command"),
    "prepare": ("mmfast.prepare", "turn raw interactions, texts and images into a prepared folder"),
    "features": ("mmfast.features", "encode texts and pictures with CLIP, sentence encoders and others"),
    "targetmr": ("mmfast.targetmr", "the stages of TargetMR: objects, labels, selectors, transfer, case study"),
    "evaluate": ("mmfast.commands.evaluate", "metrics of a trained run, also for cold items or with hidden features"),
    "recommend": ("mmfast.commands.recommend", "the best items for users of a trained run"),
    "similar": ("mmfast.commands.similar", "the items nearest to given ones"),
    "export": ("mmfast.commands.export", "vectors, ids and a FAISS index for serving"),
    "compare": ("mmfast.commands.compare", "two runs user by user: difference, interval, p-value"),
    "models": ("mmfast.commands.models", "models and frameworks with their options"),
    "demo": ("mmfast.demo", "train on the built-in catalogue and look at recommendations"),
    "doctor": ("mmfast.doctor", "versions, devices, and which backend every op uses and why"),
}
SETTINGS_HINT = "Settings are written key=value without dashes, for example model=lightgcn train.epochs=5. "
INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one sentence, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        """Raise MmfastError with argparse's message and where to read on."""
        hint = SETTINGS_HINT if "unrecognized" in message and self.prog in ("mmfast train", "mmfast demo") else ""
        raise MmfastError(f"{self.prog.partition(' ')[2]}: {message}. {hint}See `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    usual, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        args = _parse(argv)
        if args is None:
            return 0
        return args.run(args) or 0
    except ToldByFirst:
        return 2
    except MmfastError as error:
        print(f"mmfast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (head) has left; Python would complain again when it flushes stdout at exit.
        sys.stdout = None
        return 0
    finally:
        warnings.formatwarning = usual


def _warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> str:
    """Return what a command prints for a warning: our own are sentences to users, without a line of code."""
    if category is UserWarning:
        return f"mmfast: warning: {message}\n"
    return f"{category.__name__}: {message} ({place[0]}:{place[1]})\n"


def _parse(argv: list[str]) -> argparse.Namespace | None:
    if argv[:1] == ["help"] and argv[1:]:
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return None
    if argv[0] in ("-V", "--version"):
        print(f"mmfast {__version__}")
        return None
    verb = argv[0]
    if verb not in VERBS:
        raise MmfastError(f"unknown command '{verb}'.{suggest(verb, VERBS)} Commands: {', '.join(VERBS)}")
    module, rest = import_module(VERBS[verb][0]), argv[1:]
    below = getattr(module, "SUBVERBS", {})
    if rest and rest[0] in below:
        module, verb, rest = import_module(below[rest[0]]), f"{verb} {rest[0]}", rest[1:]
    parser = Parser(
        prog=f"mmfast {verb}",
        description=(module.__doc__ or "").strip(),
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser.parse_intermixed_args(rest)


def _overview() -> str:
    lines = [f"  {verb:<10} {help_line}" for verb, (_, help_line) in VERBS.items()]
    return "\n".join(
        [
            "usage: mmfast <command> [arguments]   (mmfast <command> --help tells more)",
            "",
            *lines,
            "",
            "first steps:",
            "  mmfast demo",
            "  mmfast models                                    what can be trained, and with which options",
            "  mmfast train model=lightgcn data=demo train.epochs=20 name=first",
            "  mmfast evaluate runs/first",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
