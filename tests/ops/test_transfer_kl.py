"""transfer_kl: Eq. 11-13 literally, one to four modalities, stopped gradients, large logits, messages."""

from __future__ import annotations

import math

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import transfer_kl
from tests.accuracy import assert_as_accurate_as_torch, value_and_gradients


def tables(size, width, modalities, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(size, width), (size, width), (modalities, size, width)]
    return [scale * torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.mark.parametrize(
    ("size", "width", "modalities"), [(1, 1, 1), (2, 8, 2), (65, 5, 3), (128, 64, 2), (31, 17, 4), (257, 3, 1)]
)
def test_error_is_at_most_twice_that_of_pytorch(size, width, modalities):
    for scale in (1.0, 10.0) if size < 100 else (1.0,):
        check(*tables(size, width, modalities, scale=scale))


def check(users, items, content):
    largest = max(float((users @ table.T).abs().max()) for table in (items, *content))
    # Scores of this size are rounded by about as much as the weights, their exponentials, then err in proportion.
    roundings = 2 + math.ceil(2 * largest)
    assert_as_accurate_as_torch(lambda u, i, c: transfer_kl(u, i, c, 0.7), users, items, content, roundings=roundings)


def test_equations_11_to_13():
    users, items, content = tables(7, 3, 2)
    want = 0.0
    for modality in content:
        for b in range(7):
            p = torch.exp(users[b] @ items.T) / torch.exp(users[b] @ items.T).sum()
            q = torch.exp(users[b] @ modality.T) / torch.exp(users[b] @ modality.T).sum()
            want += (p * torch.log(p / q)).sum() / 7
    torch.testing.assert_close(transfer_kl(users, items, list(content)), want)
    torch.testing.assert_close(transfer_kl(users, items, content, reduction="mean"), want / 7)
    assert transfer_kl(users, items, content, reduction="none").mean().item() == pytest.approx(want.item())


def test_gradients_stop_where_the_paper_says():
    users, items, content = tables(7, 3, 2)
    _, by_user, by_item, by_content = value_and_gradients(transfer_kl, users, items, content)
    assert by_user.abs().max() > 0 and by_content.abs().max() > 0 and not by_item.any()
    _, by_user, _, detached = value_and_gradients(
        lambda u, i, c: transfer_kl(u, i, c, detach_user=True), users, items, content
    )
    assert not by_user.any() and torch.equal(detached, by_content)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_logits_stay_finite(scale):
    users, items, content = tables(70, 4, 2)
    value, *gradients = value_and_gradients(
        lambda c: transfer_kl(users.float(), scale * items.float(), c), scale * content.float()
    )
    assert value.isfinite() and value > 0 and all(g.isfinite().all() for g in gradients)


def test_equal_distributions_have_divergence_zero():
    users, items, _ = tables(100, 16, 1)
    loss = transfer_kl(users.float(), items.float(), [items.float()], reduction="none")
    assert loss.min() >= 0 and loss.max() < 1e-6
    assert transfer_kl(users[:1], items[:1], [items[1:2]]).item() == 0


@pytest.mark.parametrize("size", [1, 3, 40])
def test_scores_far_below_zero(size):
    users, items, content = (t.abs() + 1 for t in tables(size, 4, 2))
    check(users, -100 * items, -100 * content)


def bad_arguments():
    users, items, content = tables(5, 3, 2)
    yield "the batch is empty", (users[:0], items[:0], content[:, :0])
    yield "there is no content", (users, items, [])
    yield "temperature is 0; choose", (users, items, content, 0)
    yield "wanted one dtype and one shape", (users, items[1:], content)
    yield "wanted one dtype and one shape", (users, items, content.float())
    yield r"content has the shapes \[\[.*wanted one, \[B, D\]", (users, items, [items, items[1:]])
    yield "content holds 9 modalities; wanted 1 to 8", (users, items, [items] * 9)


@pytest.mark.parametrize(("message", "arguments"), list(bad_arguments()))
def test_messages(message, arguments):
    with pytest.raises((MmfastError, ValueError), match=message):
        transfer_kl(*arguments)


def test_message_of_the_reduction():
    with pytest.raises(MmfastError, match="reduction is 'sum'; choose one of batchmean, mean, none"):
        transfer_kl(*tables(5, 3, 2), reduction="sum")
