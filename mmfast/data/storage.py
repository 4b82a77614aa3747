"""Whole folders or nothing: files are written to a hidden sibling, synced, and renamed into place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from mmfast.data.hashing import row_blocks
from mmfast.data.manifest import is_ours
from mmfast.errors import MmfastError, disk_advice


@contextmanager
def new_folder(target: Path, *, replace: bool = False, keep_existing: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends without an error, and vanishes otherwise.

    An existing target is refused, replaced (`replace`, prepared folders only), or left as it is and the new folder
    thrown away (`keep_existing`, for caches that several processes fill at once). What killed processes left of the
    same target is removed. Raises MmfastError for a target that may not be replaced, and in the place of an OSError or
    a polars error, such as a full disk.
    """
    target = Path(target)
    if target.is_symlink():
        target = target.resolve()  # what is replaced is the folder, not the link to it
    if target.exists() and not (replace or keep_existing):
        raise MmfastError(f"'{target}' exists already; choose another folder, or pass --force to replace it")
    if replace:
        _check_replaceable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        part, lock = _part_folder(target)
    except OSError as error:
        raise _cannot_write(target, error, cached=keep_existing) from error
    try:
        # Inside: mkdtemp makes a private folder and this one follows the user's umask; others may lock it.
        work = part / "whole.part"
        work.mkdir()
        yield work
        _sync(work)
        _publish(work, target, replace, keep_existing)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _cannot_write(target, error, cached=keep_existing) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process that holds it.

    shared: that of a reader, which only keeps writers out; none where the file system has no locks.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if shared else contextlib.nullcontext():
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_abandoned(part: Path) -> None:
    """Remove a folder whose lock no living process holds."""
    try:
        handle = os.open(part, os.O_RDONLY)
    except OSError:  # its writer has just finished, or it is another user's
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(part, ignore_errors=True)
    except OSError:  # it is being written, or the file system has no locks
        return
    finally:
        os.close(handle)


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file block by block, to a path of any name. Raises OSError on a full disk.

    np.save loses the end of a file without a word where the disk has room for all but its last few kilobytes.
    """
    with path.open("wb") as file:
        layout = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, layout)
        for start, stop in row_blocks(array):
            file.write(np.ascontiguousarray(array[start:stop]).data)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place, synced, and renamed. Raises OSError on a full disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync(path.parent)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder, such as one that a rename has just put there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_matrix(path: Path, dtype: np.dtype, shape: tuple[int, int]) -> np.memmap:
    """Return a writable memory-mapped `.npy` file with its disk space taken. Raises OSError on a full disk."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # A mapped file is sparse: without this a full disk would show as a bus error in the middle of a copy.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _sweep(target: Path) -> None:
    """Remove the parts of a target that killed processes left."""
    part = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.part")
    for path in target.parent.iterdir():
        if part.fullmatch(path.name) and path.is_dir():
            remove_abandoned(path)


def _part_folder(target: Path) -> tuple[Path, int]:
    """Return a private folder beside the target and the handle that holds its lock."""
    while True:
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            lock = os.open(part, os.O_RDONLY)
        except FileNotFoundError:  # another process swept it before it was locked
            continue
        with contextlib.suppress(OSError):  # a file system without locks: then nobody sweeps there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if part.exists():
            return part, lock
        os.close(lock)


def _check_replaceable(target: Path) -> None:
    if target.exists() and not is_ours(target):
        raise MmfastError(
            f"'{target}' exists and is not a prepared folder (no manifest.json of mmfast), so it is not replaced; "
            "choose another folder, or remove it yourself"
        )


def _cannot_write(target: Path, error: Exception, cached: bool) -> MmfastError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return MmfastError(
        f"prepare: cannot write '{target}': {reason}; {disk_advice(error, 'MMFAST_CACHE' if cached else '')}"
    )


def _sync(folder: Path) -> None:
    for path in [*sorted(folder.rglob("*")), folder]:
        sync(path)


def _publish(work: Path, target: Path, replace: bool, keep_existing: bool) -> None:
    old = None
    if replace and target.exists():
        _check_replaceable(target)
        old = target.with_name(f"{work.parent.name}.old")
        target.rename(old)
    try:
        work.rename(target)
    except OSError:
        if old is not None:
            old.rename(target)
        # A rename onto a folder with files fails: another process finished first.
        if keep_existing and target.is_dir():
            return
        if old is None and target.exists():
            raise MmfastError(f"'{target}' appeared while it was being written; run again with --force") from None
        raise
    if old is not None:
        shutil.rmtree(old)
