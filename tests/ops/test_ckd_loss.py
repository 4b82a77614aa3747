"""ckd_loss: Eq. 11-18 literally, the released code's form, accuracy, extreme margins, messages."""

from __future__ import annotations

import math

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import ckd_loss
from tests.accuracy import assert_as_accurate_as_torch, value_and_gradients

KINDS = (
    {},
    {"weights": "code"},
    {"weights": "uniform", "specific": "square"},
    {"weights": "ones", "specific": "cross_entropy"},
    {"weights": "code", "specific": "cross_entropy", "eps": 1e-8},
)


def margins(modalities, size, universal, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)

    def make(*shape):
        return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)

    stack = [make(modalities, size) for _ in range(3)]
    return make(size), *stack, make(modalities, universal), make(modalities, universal)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(
    ("modalities", "size", "universal"), [(1, 1, 1), (2, 7, 3), (2, 1031, 513), (3, 64, 5003), (4, 8, 8)]
)
def test_error_is_at_most_twice_that_of_pytorch(modalities, size, universal, options):
    if options.get("weights") == "code":
        modalities = 2
    margin, student, teacher, masked, theirs, target = margins(modalities, size, universal)

    def loss(student, theirs):
        kept = (t.to(student.dtype) for t in (margin, teacher, masked, target))
        margin_, teacher_, masked_, target_ = kept
        return ckd_loss(margin_, student, teacher_, theirs, target_, masked_, **options)[0]

    assert_as_accurate_as_torch(loss, student, theirs)


def test_the_paper_literally():
    margin, student, teacher, masked, theirs, target = margins(3, 11, 13)
    gamma = (margin - masked).mean(1)
    rho = (gamma / teacher.mean(1).clamp(min=1e-8)).clamp(1e-8, 10)
    weights = 1 - rho / rho.sum()
    specific = (teacher - student).clamp(min=0).mean(1)
    a, b = torch.sigmoid(target / 0.1), torch.sigmoid(theirs / 0.1)
    generic = -(a * b.log() + (1 - a) * (1 - b).log()).mean(1)
    loss, got = ckd_loss(margin, student, teacher, theirs, target, masked)
    torch.testing.assert_close(got, weights)
    torch.testing.assert_close(loss, (weights * (specific + 5 * generic)).sum(), rtol=1e-6, atol=0)
    assert got.sum().item() == pytest.approx(2)  # M - 1


def test_the_released_code_literally():
    margin, student, teacher, _, theirs, target = margins(2, 11, 13)
    text = ((margin - student[1]) / student[0]).clamp(1e-8, 10)  # only the image kept is the text masked
    image = ((margin - student[0]) / student[1]).clamp(1e-8, 10)
    weights = torch.stack([2 * image / (text + image), 2 * text / (text + image)])
    a, b = torch.sigmoid(target / 0.1), torch.sigmoid(theirs / 0.1)
    generic = -(a * (b + 1e-8).log() + (1 - a) * (1 - b + 1e-8).log()).mean(1, keepdim=True)
    want = (weights * ((teacher - student).clamp(min=0) + 5 * generic)).sum(0).mean()
    loss, got = ckd_loss(margin, student, teacher, theirs, target, weights="code", eps=1e-8)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(got, weights.mean(1))


def test_weights_are_constants_and_bounded():
    margin, student, teacher, masked, theirs, target = margins(2, 50, 9)
    leaves = [t.requires_grad_() for t in (margin, student, teacher, masked, theirs, target)]
    margin, student, teacher, masked, theirs, target = leaves
    loss, weights = ckd_loss(margin, student, teacher, theirs, target, masked)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert [g is not None and bool(g.any()) for g in gradients] == [False, True, False, False, True, False]
    assert not weights.requires_grad and weights.min() >= 0 and weights.max() <= 1


def test_weak_teachers_and_shares_without_meaning():
    zero = torch.zeros(2, 3, dtype=torch.float64)
    weak = torch.stack([zero[0] - 1, zero[0] + 1])  # the first teacher prefers negatives: rho = 10 for it
    _, weights = ckd_loss(zero[0] + 1, zero, weak, zero, zero, zero)
    assert weights.tolist() == pytest.approx([1 / 11, 10 / 11])
    _, weights = ckd_loss(zero[0], zero, zero, zero, zero, weights="code")  # 0 / 0 twice
    assert weights.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("options", KINDS)
def test_extreme_margins_are_finite(scale, options):
    margin, student, teacher, masked, theirs, target = (t.float() for t in margins(2, 33, 17, scale=scale))
    value, *gradients = value_and_gradients(
        lambda s, t: ckd_loss(margin, s, teacher, t, target, masked, **options)[0], student, theirs
    )
    assert value.isfinite() and all(g.isfinite().all() for g in gradients)


def test_the_stable_form_keeps_its_gradient():
    far, zero = torch.full((1, 1), -1e4), torch.zeros(1, 1)
    _, by_student = value_and_gradients(
        lambda s: ckd_loss(zero[0], zero, zero, s, -far, zero, weights="ones", generic_weight=1.0)[0], far
    )
    assert by_student.item() == pytest.approx(-3 / 0.1)


def test_one_triple_by_hand():
    margin, student, teacher = torch.tensor([0.0]), torch.tensor([[0.5], [2.0]]), torch.tensor([[1.5], [1.0]])
    zero = torch.zeros(2, 1)
    loss, _ = ckd_loss(margin, student, teacher, zero, zero, student.flip(0), weights="uniform")
    assert loss.item() == pytest.approx(0.5 * (1.0 + 0.0) + 0.5 * 2 * 5 * math.log(2))


def bad_arguments():
    margin, student, teacher, masked, theirs, target = margins(3, 5, 4)
    yield "specific is 'l1'", (margin, student, teacher, theirs, target, masked), {"specific": "l1"}
    yield "weights is 'my'", (margin, student, teacher, theirs, target, masked), {"weights": "my"}
    yield "is defined for 2 modalities, got 3", (margin, student, teacher, theirs, target), {"weights": "code"}
    yield "temperature is -1", (margin, student, teacher, theirs, target), {"temperature": -1}
    yield "none of them empty", (margin[:0], student[:, :0], teacher[:, :0], theirs, target), {}
    yield r"teacher is torch.float64 \[2, 5\]", (margin, student, teacher[1:], theirs, target), {}
    yield "universal_teacher is torch.float32", (margin, student, teacher, theirs, target.float()), {}
    yield (
        r"margin is torch.float64 \[4\]; wanted torch.float64 \[5\]",
        (margin[1:], student, teacher, theirs, target),
        {},
    )


@pytest.mark.parametrize(("message", "arguments", "options"), list(bad_arguments()))
def test_messages(message, arguments, options):
    with pytest.raises(MmfastError, match=message):
        ckd_loss(*arguments, **options)
