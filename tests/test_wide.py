"""wide_product: values and gradients of tables that are mapped in pieces, and when they are not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmfast.wide import LEAST, Linear, wide_product


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_pieces_agree_with_the_whole(bias, turned):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(LEAST + 1, LEAST + 3, generator=generator, requires_grad=True)
    weight = torch.randn(x.shape[1], 5, generator=generator).t() if turned else torch.randn(5, x.shape[1])
    weight = weight.detach().requires_grad_()
    b = torch.randn(5, generator=generator, requires_grad=True) if bias else None
    inputs = [t for t in (x, weight, b) if t is not None]
    grad = torch.randn(len(x), 5, generator=generator)
    ours = wide_product(x, weight, b)
    assert "WideProduct" in type(ours.grad_fn).__name__
    want = F.linear(*(None if t is None else t.double() for t in (x, weight, b)))
    pairs = zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(want, inputs, grad.double()), strict=True)
    for got, wanted in [(ours, want), *pairs]:
        assert torch.allclose(got.double(), wanted.double(), rtol=1e-4, atol=1e-4 * float(wanted.detach().abs().max()))


@pytest.mark.parametrize("shape", [(0, 4), (3, 4), (LEAST, 8), (8, LEAST), (2, 3, 4)])
def test_small_tables_take_the_plain_product(shape):
    layer, x = Linear(shape[-1], 2), torch.randn(shape)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_autocast_takes_the_plain_product():
    layer, x = Linear(LEAST, 2), torch.randn(LEAST, LEAST)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
