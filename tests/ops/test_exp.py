"""The vector exponential of the kernels: within 2 units in the last place, zero far below, NaN kept."""

from __future__ import annotations

import numpy as np
import pytest

from mmfast import _C


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -87.2), (np.float64, -708.2)])
def test_within_two_units_in_the_last_place(dtype, lowest):
    near = -np.exp(np.random.default_rng(0).uniform(-40, np.log(-lowest), 100_001))
    x = np.concatenate([np.linspace(lowest, 0, 300_007), near, [0.0]]).astype(dtype)
    exact, ours = np.exp(x.astype(np.longdouble)), x.copy()
    _C.exp_(ours)
    assert np.abs((ours - exact) / np.spacing(exact.astype(dtype))).max() <= 2
    assert ours[-1] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 3, 8, 13])
def test_ends_of_the_range(dtype, size):
    x = np.resize(np.array([-np.inf, np.nan, -1e30, -0.0], dtype), size)
    with np.errstate(all="ignore"):
        want = np.exp(x)
    _C.exp_(x)
    np.testing.assert_array_equal(x, want)


def test_messages():
    with pytest.raises(ValueError, match="contiguous array"):
        _C.exp_(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="float32 or float64"):
        _C.exp_(np.zeros(2, np.int64))
