"""A disk that is full after so many bytes of a file."""

from __future__ import annotations

import contextlib
import resource


@contextlib.contextmanager
def full_after(num_bytes: int):
    """Let the operating system refuse every write beyond `num_bytes` of any file while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder):
    """Return the names of the files and folders in `folder`, sorted."""
    return sorted(path.name for path in folder.iterdir())
