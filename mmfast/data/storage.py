"""Whole folders or nothing: files are written to a hidden sibling, synced, and renamed into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfast.errors import MmfastError


@contextmanager
def new_folder(target: Path, *, replace: bool = False, keep_existing: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an error, and vanishes otherwise.

    An existing target is refused, replaced (`replace`), or left as it is and the new folder thrown away
    (`keep_existing`, for caches that several processes fill at once).
    """
    target = Path(target)
    if target.exists() and not (replace or keep_existing):
        raise MmfastError(f"'{target}' exists already; choose another folder, or pass --force to replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        # mkdtemp makes the folder private; what is published should follow the user's own umask.
        umask = os.umask(0)
        os.umask(umask)
        work.chmod(0o777 & ~umask)
        yield work
        _sync(work)
        _publish(work, target, replace, keep_existing)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in [*sorted(folder.rglob("*")), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(work: Path, target: Path, replace: bool, keep_existing: bool) -> None:
    old = None
    if replace and target.exists():
        old = target.with_name(f"{work.name}.old")
        target.rename(old)
    try:
        work.rename(target)
    except OSError:
        if old is not None:
            old.rename(target)
        # A rename onto a folder with files fails: another process finished first.
        if keep_existing and target.is_dir():
            return
        if target.exists():
            raise MmfastError(f"'{target}' appeared while it was being written; run again with --force") from None
        raise
    if old is not None:
        shutil.rmtree(old)
