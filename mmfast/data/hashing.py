"""Content hashes (sha256, hexadecimal) of files, arrays and small JSON values."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_BYTES = 16 << 20


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, read in blocks so that its size does not matter."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_array(array: np.ndarray) -> str:
    """Return the sha256 of the `.npy` file `np.save` would write: equal to `hash_file` of that file."""
    header = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, layout)
    digest = hashlib.sha256(header.getvalue())
    for start, stop in row_blocks(array):
        digest.update(np.ascontiguousarray(array[start:stop]).data)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Return the sha256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def row_blocks(array: np.ndarray, block_bytes: int = BLOCK_BYTES) -> list[tuple[int, int]]:
    """Return (start, stop) row ranges of about `block_bytes` each, for arrays that may be memory-mapped."""
    rows = len(array)
    row_bytes = max(1, array.nbytes // max(1, rows))
    step = max(1, block_bytes // row_bytes)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
