"""Two runs compared user by user: difference of means, bootstrap interval and paired t-test."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl

from mmfast.errors import MmfastError
from mmfast.run import check_run_folder

BOOTSTRAPS = 2000
NORMAL_FROM = 2000  # degrees of freedom from which the t distribution is the normal one to four digits


def compare(run_a: Path | str, run_b: Path | str, seed: int = 999) -> pl.DataFrame:
    """Return one row per metric both runs have: metric, a, b, difference (b - a), low, high, p.

    Values are the per-user test metrics of the run folders; low and high bound the difference by a 95 % bootstrap
    over users, p is the two-sided paired t-test. Raises MmfastError when the runs were evaluated on other users.
    """
    a, b = _per_user(run_a), _per_user(run_b)
    if sorted(a["user"]) != sorted(b["user"]):
        common = len(set(a["user"]) & set(b["user"]))
        raise MmfastError(
            f"'{run_a}' and '{run_b}' were evaluated on other users ({a.height} and {b.height}, {common} in common); "
            "compare runs on the same data set and split"
        )
    b = a.select("user").join(b, on="user", how="left", maintain_order="left")
    metrics = [name for name in a.columns if name != "user" and name in b.columns]
    if not metrics:
        raise MmfastError(f"'{run_a}' and '{run_b}' have no metric in common; evaluate both with the same evaluate.*")
    return pl.DataFrame([{"metric": name, **paired(a[name].to_numpy(), b[name].to_numpy(), seed)} for name in metrics])


def paired(a: np.ndarray, b: np.ndarray, seed: int = 999) -> dict[str, float]:
    """Return means, difference b - a, its 95 % bootstrap interval and the p-value of the paired t-test; [U] each."""
    difference = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    low, high = bootstrap_interval(difference, seed)
    return {
        "a": float(np.mean(a)),
        "b": float(np.mean(b)),
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p": t_test(difference),
    }


def bootstrap_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of the mean over resampled users."""
    random = np.random.default_rng(seed)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def t_test(differences: np.ndarray) -> float:
    """Return the two-sided p-value that the mean of `differences` [n] is zero; 1 when all are zero or n < 2."""
    n = len(differences)
    if n < 2:
        return 1.0
    spread = differences.std(ddof=1)
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return student_tail(abs(differences.mean()) / (spread / math.sqrt(n)), n - 1)


def student_tail(t: float, freedom: int) -> float:
    """Return P(|T| > t) of Student's t with `freedom` degrees of freedom.

    >>> round(student_tail(2.0, 10), 6)
    0.073388
    """
    if freedom >= NORMAL_FROM:
        return math.erfc(t / math.sqrt(2))
    # With T = sqrt(freedom) * tan(angle) the density is a power of the cosine on a finite interval.
    start = math.atan(t / math.sqrt(freedom))
    angle = np.linspace(start, min(math.pi / 2, start + 40 / math.sqrt(freedom)), 20_001)
    height = np.cos(angle) ** (freedom - 1)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    area = (height.sum() - (height[0] + height[-1]) / 2) * (angle[1] - angle[0])
    return float(min(1.0, 2 * scale * area))


def _per_user(run: Path | str) -> pl.DataFrame:
    path = check_run_folder(run) / "per_user.parquet"
    if not path.is_file():
        raise MmfastError(f"run '{run}' is not finished: it has no per_user.parquet; `mmfast train --resume {run}`")
    return pl.read_parquet(path, glob=False)
