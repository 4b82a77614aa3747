"""target_pool: Eq. 20-21 item by item, empty items, the target's half of the attention, large logits, messages."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import target_pool
from tests.accuracy import assert_as_accurate_as_torch, ragged, value_and_gradients


def items(size, width, most=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(size, width, dtype=torch.float64, generator=generator)
    attention = torch.randn(2 * width, dtype=torch.float64, generator=generator) / width**0.5
    return target, *ragged(size, width, generator, most), attention


@pytest.mark.parametrize(("size", "width", "most"), [(1, 1, 1), (7, 3, 3), (65, 17, 5), (131, 64, 5), (5, 8, 41)])
def test_error_is_at_most_twice_that_of_pytorch(size, width, most):
    target, aux, ptr, attention = items(size, width, most)
    # Two: an exponential and a division are rounded before the sum is, which few terms do not level out.
    assert_as_accurate_as_torch(lambda t, a, w: target_pool(t, a, ptr, w), target, aux, attention, roundings=2)


def test_equations_20_and_21():
    target, aux, ptr, attention = items(6, 3)
    out = target_pool(target, aux, ptr, attention.unsqueeze(1))
    for r in range(6):
        others = aux[ptr[r] : ptr[r + 1]]
        pooled = torch.zeros(3, dtype=torch.float64)
        if len(others):
            logits = torch.stack([attention @ torch.cat([target[r], a]) for a in others])
            pooled = torch.softmax(logits, 0) @ others
        torch.testing.assert_close(out[r], torch.cat([target[r], pooled]))


def test_no_auxiliaries_at_all():
    target, aux, ptr, attention = items(4, 3)
    value, by_target, by_aux, by_attention = value_and_gradients(
        lambda t, a, w: target_pool(t, a, torch.zeros_like(ptr), w), target, aux[:0], attention
    )
    assert torch.equal(value[:, :3], target) and not value[:, 3:].any()
    assert by_target.all() and by_aux.shape == (0, 3) and not by_attention.any()
    assert target_pool(target[:0], aux[:0], ptr[:1], attention).shape == (0, 6)


def test_the_targets_half_of_the_attention_has_no_gradient():
    target, aux, ptr, attention = items(50, 8)
    *_, by_attention = value_and_gradients(lambda w: target_pool(target, aux, ptr, w), attention)
    assert not by_attention[:8].any() and by_attention[8:].all()


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_large_logits(scale):
    target, aux, ptr, attention = items(40, 8)
    assert_as_accurate_as_torch(lambda a: target_pool(target.to(a), a, ptr, scale * attention.to(a)), aux)


def bad_arguments():
    target, aux, ptr, attention = items(5, 3)
    yield r"wanted \[R, D\] and \[A, D\] of one dtype", (target, aux.float(), ptr, attention)
    yield r"wanted \[R, D\] and \[A, D\] of one dtype", (target, aux[:, :2], ptr, attention)
    yield "attention holds 5 numbers of torch.float64; wanted 6", (target, aux, ptr, attention[1:])
    yield r"ptr is torch.int32 \[6\]; wanted int64 \[6\]", (target, aux, ptr.int(), attention)
    yield "ptr runs from 0 to", (target, aux[1:], ptr, attention)
    yield "ptr runs from 1 to", (target, aux, ptr.clone().index_fill_(0, torch.tensor([0]), 1), attention)


@pytest.mark.parametrize(("message", "arguments"), list(bad_arguments()))
def test_messages(message, arguments):
    with pytest.raises((MmfastError, ValueError), match=message):
        target_pool(*arguments)
