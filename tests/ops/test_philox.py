"""The NumPy Philox against the known answers published with Random123."""

import numpy as np
import pytest

from mmfast.ops._philox import below, philox, uniform

ONES = 2**64 - 1
PI = (0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88)


@pytest.mark.parametrize(
    ("key", "low", "high", "words"),
    [
        (0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (ONES, ONES, ONES, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (PI[0], PI[2], PI[1], "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(key, low, high, words):
    assert " ".join(f"{word:08x}" for word in philox(key, low, high)[0]) == words


def test_counters_are_arrays():
    words = philox(7, np.arange(5), 3)
    assert words.shape == (5, 4)
    assert all(np.array_equal(words[i], philox(7, i, 3)[0]) for i in range(5))


def test_numbers_are_in_range_and_even():
    words = philox(1, np.arange(100_000), 0)
    assert np.array_equal(np.unique(below(words[:, 0], 7)), np.arange(7))
    assert below(np.array([2**32 - 1], np.uint64), 2**31 - 1)[0] == 2**31 - 2
    drawn = uniform(words)
    assert 0 < drawn.min() < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.005 and abs(drawn.var() - 1 / 12) < 0.002
