"""Where a figure comes from: what every JSON line of a benchmark says beside its numbers."""

from __future__ import annotations

import json
import shlex
import sys
import time


def origin() -> dict[str, str]:
    """Return the command of this process and the date."""
    return {"command": shlex.join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d")}


def json_line(case: dict) -> str:
    """Return a case with its origin as one line of JSON."""
    return json.dumps({**case, **origin()})
