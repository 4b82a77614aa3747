"""Time and peak memory of preparing a ratings file of Amazon size: 5-core and the MMRec split, in a fresh process."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from _origin import json_line

CHUNK = 1_000_000
MEASURE = "--measure"


def write_ratings(path: Path, rows: int, users: int, items: int, seed: int = 1) -> None:
    """Write a headerless ratings file with power laws in users and items, a chunk of rows at a time.

    The first rows name every user and item once; the others fall on few of them.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    everyone = rng.permutation(users)
    with path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            at = np.arange(start, min(start + CHUNK, rows))
            user = np.where(at < users, everyone[np.minimum(at, users - 1)], (users * rng.random(at.size) ** 4))
            item = np.where(at < items, at, items * rng.random(at.size) ** 3)
            chunk = pl.DataFrame(
                {
                    "user": user.astype(np.int64),
                    "item": item.astype(np.int64),
                    "rating": rng.integers(1, 6, at.size).astype(np.float64),
                    "time": rng.integers(900_000_000, 1_400_000_000, at.size),
                }
            )
            names = {"user": ("A{}", 13), "item": ("B{}", 9)}
            ids = [pl.format(form, pl.col(c).cast(pl.String).str.zfill(n)).alias(c) for c, (form, n) in names.items()]
            chunk.with_columns(ids).write_csv(file, include_header=False)


def measure(source: Path, out: Path) -> dict[str, float]:
    """Prepare `source` in this process; return seconds, peak bytes and what came out."""
    start = time.perf_counter()
    from mmfast.data.manifest import read_manifest
    from mmfast.prepare import prepare

    manifest = read_manifest(prepare(source, out, k_core=5, split="mmrec"))
    seconds = time.perf_counter() - start
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    kept = {"users": manifest["num_users"], "items": manifest["num_items"], "kept_rows": sum(manifest["rows"].values())}
    return {"seconds": seconds, "peak_bytes": peak, **kept}


def main() -> None:
    """Write the file, prepare it in a fresh process, print rows/s, seconds and peak bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=7_820_000)
    parser.add_argument("--users", type=int, default=4_200_000)
    parser.add_argument("--items", type=int, default=476_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(MEASURE, nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "synthetic"
        source.mkdir()
        write_ratings(source / "ratings_Synthetic.csv", args.rows, args.users, args.items)
        # The peak of a process never falls, so the file is written by another one than prepares it.
        command = [sys.executable, __file__, MEASURE, str(source), str(Path(folder) / "out")]
        threads = {"POLARS_MAX_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, env={**os.environ, **threads}, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    result = {"op": "prepare", "rows": args.rows, "rows_per_second": args.rows / result["seconds"], **result}
    if args.json:
        print(json_line(result))
        return
    print(f"{args.rows:,} rows in {result['seconds']:.1f} s: {result['rows_per_second']:,.0f} rows/s, ", end="")
    print(f"peak {result['peak_bytes'] / 1e9:.2f} GB, kept {result['kept_rows']:,} rows", end="")
    print(f" of {result['users']:,} users and {result['items']:,} items")


if __name__ == "__main__":
    main()
