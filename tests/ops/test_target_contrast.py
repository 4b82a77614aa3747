"""target_contrast: Eq. 19 item by item, empty sides, the CLIP form, extreme temperatures, messages."""

from __future__ import annotations

import math

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import target_contrast
from tests.accuracy import assert_as_accurate_as_torch, ragged, value_and_gradients

KINDS = ({}, {"temperature": 0.07}, {"temperature": 0.2, "with_positive": True})


def items(size, width, most=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, size, width, dtype=torch.float64, generator=generator)
    return image, *ragged(size, width, generator, most), text, *ragged(size, width, generator, most)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(("size", "width", "most"), [(1, 1, 1), (7, 3, 3), (65, 17, 5), (131, 64, 5), (5, 8, 41)])
def test_error_is_at_most_twice_that_of_pytorch(size, width, most, options):
    image, aux, ptr, text, words, text_ptr = items(size, width, most)

    def loss(image, aux):
        return target_contrast(image, aux, ptr, text.to(aux), words.to(aux), text_ptr, **options)

    assert_as_accurate_as_torch(loss, image, aux, roundings=2)  # the logarithm of a sum of two rounded quotients


def cos(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def test_equation_19():
    image, text, aux, words = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ptr, text_ptr = torch.tensor([0, 2, 2, 3]), torch.tensor([0, 1, 3, 3])
    a = [math.exp(cos(v, t)) for v, t in zip(image, text, strict=True)]
    by_image = [sum(math.exp(cos(image[r], aux[k])) for k in range(ptr[r], ptr[r + 1])) for r in range(3)]
    by_text = [sum(math.exp(cos(image[r], words[k])) for k in range(text_ptr[r], text_ptr[r + 1])) for r in range(3)]
    want = -math.log(a[0] / by_image[0] + a[0] / by_text[0])
    want += -math.log(a[1] / by_text[1])  # no image auxiliaries: that ratio is dropped
    want += -math.log(a[2] / by_image[2])  # no text auxiliaries
    got = target_contrast(image, aux, ptr, text, words, text_ptr)
    assert got.item() == pytest.approx(want / 3)


def test_items_without_auxiliaries_are_left_out_of_the_mean():
    image, aux, _, text, words, _ = items(3, 4)
    ptr, none = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 0, 0])
    alone = target_contrast(image[:1], aux[:1], ptr[:2], text[:1], words[:0], none[:2])
    value, by_image, _ = value_and_gradients(
        lambda v, a: target_contrast(v, a, ptr, text, words[:0], none), image, aux[:1]
    )
    assert value.item() == pytest.approx(alone.item()) and not by_image[1:].any()
    value, by_image, by_aux = value_and_gradients(
        lambda v, a: target_contrast(v, a, none, text, words[:0], none), image, aux[:0]
    )
    assert value.item() == 0 and not by_image.any() and by_aux.shape == (0, 4)


@pytest.mark.parametrize("options", [{"temperature": 0.01}, {"temperature": 1e-4, "with_positive": True}])
def test_low_temperatures_are_finite(options):
    image, aux, ptr, text, words, text_ptr = (t.float() if t.is_floating_point() else t for t in items(30, 8))
    image[0], image[1] = text[0], -text[1]
    value, *gradients = value_and_gradients(
        lambda v, a: target_contrast(v, a, ptr, text, words, text_ptr, **options), image, aux
    )
    assert value.isfinite() and all(g.isfinite().all() for g in gradients)


def test_rows_of_zeros():
    image, aux, ptr, text, words, text_ptr = items(9, 4)
    image[2], aux[0], text[3] = 0, 0, 0
    assert_as_accurate_as_torch(
        lambda v, a: target_contrast(v, a, ptr, text.to(a), words.to(a), text_ptr) * 1e-8, image, aux
    )


def test_texts_are_constants():
    image, aux, ptr, text, words, text_ptr = items(9, 4)
    loss = target_contrast(image, aux, ptr, text.requires_grad_(), words.requires_grad_(), text_ptr)
    assert not loss.requires_grad


def bad_arguments():
    image, aux, ptr, text, words, text_ptr = items(5, 3)
    start = torch.zeros(1, dtype=torch.int64)
    yield "and at least one item", (image[:0], aux[:0], start, text[:0], words[:0], start)
    yield "there are 5 image targets and 4 text targets", (image, aux, ptr, text[1:], words, text_ptr)
    yield "rows of one dtype and width", (image, aux[:, :2], ptr, text, words, text_ptr)
    yield "rows of one dtype and width", (image, aux, ptr, text.float(), words, text_ptr)
    yield r"image_ptr is torch.int64 \[5\]; wanted int64 \[6\]", (image, aux, ptr[1:], text, words, text_ptr)
    yield "temperature is 0", (image, aux, ptr, text, words, text_ptr, 0)
    yield "image_ptr runs from 0 to .*; wanted from 0 up to the", (image, aux[1:], ptr, text, words, text_ptr)
    falling = text_ptr.clone()
    falling[2] = falling[-1] + 1
    yield "text_ptr runs from .* never falling", (image, aux, ptr, text, words, falling)


@pytest.mark.parametrize(("message", "arguments"), list(bad_arguments()))
def test_messages(message, arguments):
    with pytest.raises((MmfastError, ValueError), match=message):
        target_contrast(*arguments)
