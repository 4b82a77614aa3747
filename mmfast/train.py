"""`python -m mmfast.train` is `mmfast train`; from Python, use mmfast.fit."""

from __future__ import annotations

import sys

from mmfast.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
