"""The one exception type whose message is written for a user, and the helper that suggests a spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MmfastError(ValueError):
    """Bad input: the message says what was got, what was wanted and what to do. The command line prints it alone."""


class ToldByFirst(MmfastError):
    """An error of the first of several ranks, raised on the others too; the first has told the user."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" when a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
