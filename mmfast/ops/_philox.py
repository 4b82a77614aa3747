"""Philox4x32-10 in NumPy: the counter-based generator of the native samplers, word for word.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(key: int, counter_low: np.ndarray | int, counter_high: np.ndarray | int) -> np.ndarray:
    """Return the four 32-bit words, as uint64 [n, 4], of one 64-bit key and n 128-bit counters.

    The halves of the counter are integers or arrays [n] of integers below 2**64.

    >>> [f"{word:08x}" for word in philox(0, 0, 0)[0]]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    low, high = np.broadcast_arrays(_uint64(counter_low), _uint64(counter_high))
    c0, c1, c2, c3 = low & LOW, low >> HALF, high & LOW, high >> HALF
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ np.uint64(k0), p1 & LOW, (p0 >> HALF) ^ c3 ^ np.uint64(k1), p0 & LOW
        k0, k1 = (k0 + KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def below(words: np.ndarray, size: np.ndarray | int) -> np.ndarray:
    """Return integers in [0, size) from 32-bit words [n], size below 2**32; uniform up to size / 2**32."""
    return ((words * _uint64(size)) >> HALF).astype(np.int64)


def uniform(words: np.ndarray) -> np.ndarray:
    """Return doubles in (0, 1) with 52 random bits from the first two words of each row of words [n, 4]."""
    bits = ((words[:, 0] >> np.uint64(6)) << np.uint64(26)) | (words[:, 1] >> np.uint64(6))
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def _uint64(values: np.ndarray | int) -> np.ndarray:
    return np.atleast_1d(np.asarray(values)).astype(np.uint64)
