"""The one exception type whose message is written for a user, and what helps to word it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)


class MmfastError(ValueError):
    """Bad input: the message says what was got, what was wanted and what to do. The command line prints it alone."""


class ToldByFirst(MmfastError):
    """An error of the first of several ranks, raised on the others too; the first has told the user."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" when a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def disk_advice(error: Exception, setting: str) -> str:
    """Return what to do when a file cannot be written; `setting`, if any, is what names another folder."""
    code, by = getattr(error, "errno", None), f" ({setting})" if setting else ""
    if code in NOT_ALLOWED:
        return f"get the right to write there, or choose another folder{by}"
    if code in NO_PLACE:
        return f"no folder can be made there, choose another{by}"
    return f"free space or choose another folder{by}"
