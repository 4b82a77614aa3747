"""Split rules: a label 0 train, 1 valid, 2 test for every row; seeded, without a loop over users.

Rules and their odd cases are those of the MMRec and LATTICE preprocessing; the order of draws is our own, so the
same seed gives the same sizes as theirs, not the same rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from mmfast.errors import MmfastError, suggest

SplitRule = Callable[[pl.DataFrame, int | None], np.ndarray]
TRAIN, VALID, TEST = 0, 1, 2
COLD_SHARE = 0.2
LABELS = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2}
TIME_CUTS = (0.8, 0.9)
DEFAULT_SEED = 999
MOST_SEED = 2**63 - 1  # as for every seed of a config
USUAL_COLUMNS = ("split", "x_label")  # labels of a given split; MMRec calls them x_label
USUAL_COLUMN = USUAL_COLUMNS[0]
SEEDLESS = ("user-time", "leave-one-out", "time")  # rules that draw nothing
COLD_SEED = 123  # the seed of the LATTICE cold-start script


def seed_of(rule: str, seed: int | None) -> int | None:
    """Return the seed of a split: the one given, else the reference's own for the rule, None for a rule by time.

    Raises MmfastError for a seed that no generator takes, or that the rule does not use.
    """
    name = rule.replace("_", "-").partition(":")[0]
    if name in SEEDLESS:
        if seed is not None:
            raise MmfastError(f"split_seed is {seed}, but split rule '{rule}' draws nothing; leave the seed out")
        return None
    if seed is not None:
        if not 0 <= seed <= MOST_SEED:
            raise MmfastError(f"split_seed is {seed}; want a whole number from 0 to {MOST_SEED}")
        return seed
    return COLD_SEED if name == "cold" else DEFAULT_SEED


def split_rows(rows: pl.DataFrame, rule: str, seed: int | None) -> np.ndarray:
    """Return labels int8 [E] for rows (user, item[, time]) under a rule of `RULES`, or "time:0.7,0.85" with own cuts.

    Raises MmfastError for an unknown rule, or for a rule by time when the rows carry none.
    """
    name, _, argument = rule.replace("_", "-").partition(":")
    if name == "time":
        return by_time(rows, _cuts(rule, argument))
    if name not in RULES or argument:
        known = [*RULES, "time"]
        raise MmfastError(
            f"unknown split rule '{rule}'.{suggest(rule, known)} Known: auto, column (the labels the data carry), "
            f"{', '.join(known)}"
        )
    return RULES[name](rows, seed).astype(np.int8)


def mmrec(rows: pl.DataFrame, seed: int) -> np.ndarray:
    """Random per user: under 10 rows 1 valid, 1 test; else h = floor(0.2 n), valid floor(h/2), test the rest of h."""
    return _per_user(rows, *_random_order(rows, seed), odd_to_test=True)


def lattice(rows: pl.DataFrame, seed: int) -> np.ndarray:
    """Random per user as `mmrec`, but the odd row of h goes to validation (LATTICE, MICRO and CKD)."""
    return _per_user(rows, *_random_order(rows, seed), odd_to_test=False)


def user_time(rows: pl.DataFrame, seed: int | None) -> np.ndarray:
    """Chronological per user with the sizes of `mmrec`: the oldest rows train, the newest test."""
    return _per_user(rows, *_time_order(rows, "user-time"), odd_to_test=True)


def leave_one_out(rows: pl.DataFrame, seed: int | None) -> np.ndarray:
    """Last row of a user by time test, the one before valid; a user of two rows has no valid row, of one no test."""
    position, count = _time_order(rows, "leave-one-out")
    from_end = count - 1 - position
    return np.where((from_end == 0) & (count > 1), TEST, np.where((from_end == 1) & (count > 2), VALID, TRAIN))


def by_time(rows: pl.DataFrame, cuts: tuple[float, float] = TIME_CUTS) -> np.ndarray:
    """One clock for all users: rows before the first quantile of time train, before the second valid, the rest test."""
    time = _time(rows, "time")
    ordered = np.sort(time)
    first, second = (ordered[min(int(cut * len(time)), len(time) - 1)] for cut in cuts)
    return ((time >= first).astype(np.int8) + (time >= second)).astype(np.int8)


def cold(rows: pl.DataFrame, seed: int) -> np.ndarray:
    """LATTICE cold start: a fifth of the items with rows is drawn; first half test items, second half valid items."""
    items = rows["item"].to_numpy()
    present = np.unique(items)
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(present)[: int(COLD_SHARE * len(present))]
    label = np.zeros(int(present[-1]) + 1, np.int8)
    label[chosen[: len(chosen) // 2]] = TEST
    label[chosen[len(chosen) // 2 :]] = VALID
    return label[items]


RULES: dict[str, SplitRule] = {
    "mmrec": mmrec,
    "lattice": lattice,
    "user-time": user_time,
    "leave-one-out": leave_one_out,
    "cold": cold,
}


def part_sizes(count: np.ndarray, odd_to_test: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return (valid, test) sizes for users of `count` rows, each [U].

    The published rule assumes 5 rows or more; with two rows one is train and one test, a single row is train.
    """
    held = count // 5
    small = held // 2
    valid = np.where(count >= 10, small if odd_to_test else held - small, (count >= 3).astype(np.int64))
    test = np.where(count >= 10, held - small if odd_to_test else small, (count >= 2).astype(np.int64))
    return valid, test


def read_labels(labels: pl.Series) -> np.ndarray:
    """Return int8 labels of a column of 0/1/2 or train/valid/test. Raises MmfastError naming a value it cannot read."""
    text = labels.cast(pl.String).str.strip_chars().str.to_lowercase()
    known = {**LABELS, "0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2}
    read = text.replace_strict(known, default=None, return_dtype=pl.Int8)
    if read.null_count():
        at = int(read.is_null().arg_max())
        raise MmfastError(
            f"split column '{labels.name}': row {at} says '{labels[at]}' ({read.null_count()} rows cannot be read); "
            "want 0/1/2 or train/valid/test"
        )
    return read.to_numpy()


def _per_user(rows: pl.DataFrame, position: np.ndarray, count: np.ndarray, odd_to_test: bool) -> np.ndarray:
    valid, test = part_sizes(count, odd_to_test)
    train = count - valid - test
    return (position >= train).astype(np.int8) + (position >= train + valid)


def _random_order(rows: pl.DataFrame, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rank = np.random.Generator(np.random.PCG64(seed)).permutation(rows.height)
    return _positions(rows["user"].to_numpy(), rank)


def _time_order(rows: pl.DataFrame, rule: str) -> tuple[np.ndarray, np.ndarray]:
    return _positions(rows["user"].to_numpy(), _time(rows, rule))


def _positions(users: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (position of each row within its user when ordered by key, rows of that user), int64 [E] each."""
    order = np.lexsort((key, users))
    count = np.bincount(users)
    start = np.cumsum(count) - count
    position = np.empty(len(users), np.int64)
    position[order] = np.arange(len(users)) - start[users[order]]
    return position, count[users]


def _time(rows: pl.DataFrame, rule: str) -> np.ndarray:
    if "time" not in rows.columns:
        raise MmfastError(
            f"split rule '{rule}' needs the time of each interaction and the data have none; "
            "choose mmrec, lattice or cold, or give a 'time' column"
        )
    return rows["time"].to_numpy()


def _cuts(rule: str, argument: str) -> tuple[float, float]:
    if not argument:
        return TIME_CUTS
    try:
        first, second = (float(cut) for cut in argument.split(","))
    except ValueError:
        first = second = 0.0
    if not 0 < first < second < 1:
        raise MmfastError(f"split rule '{rule}': want two growing cut points between 0 and 1, such as time:0.8,0.9")
    return first, second
