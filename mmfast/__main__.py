"""`python -m mmfast` is `mmfast`."""

from __future__ import annotations

import sys

from mmfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
