"""dct: every kind of length against scipy and the matrix of cosines, gradients, threads, memory, messages."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from mmfast.errors import MmfastError
from mmfast.ops import dct, idct
from mmfast.ops._backend import use_backend
from mmfast.ops.dct import dct_reference
from tests.kernels import DEVICE, EMULATED

# every short length; mixed radices; primes above 31 with and without a smooth neighbour; squares and doubles of them
LENGTHS = [*range(1, 70), 251, 257, 384, 502, 512, 521, 1000, 1031, 4093, 4096, 7050, 10_007]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scipy_transform(x, axes, inverse, dtype=np.float64):
    transform = scipy.fft.idctn if inverse else scipy.fft.dctn
    return torch.from_numpy(transform(x.numpy().astype(dtype), axes=tuple(range(-axes, 0)), norm="ortho"))


def rms(x):
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", LENGTHS)
def test_every_kind_of_length_agrees_with_scipy(size, inverse):
    ours = idct if inverse else dct
    x = random(11, size)
    exact = scipy_transform(x, 1, inverse)
    # The CUDA kernels stand on a library's FFT, whose rounding differs from CPU to CPU where they are emulated.
    torch.testing.assert_close(ours(x), exact, rtol=0, atol=1e-13 if EMULATED or DEVICE != "cpu" else 1e-14)
    x32 = x.float().double()  # the same numbers for every precision
    exact = scipy_transform(x32, 1, inverse)
    theirs = scipy_transform(x32, 1, inverse, np.float32)
    assert rms(ours(x32.float()) - exact) <= 2 * rms(theirs - exact) + 2e-8 * rms(exact)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5), (17, 9), (251, 33), (3, 64, 15), (2, 3, 20, 7), (131, 8)])
def test_both_axes_and_batches_agree_with_scipy(shape, inverse):
    x = random(*shape)
    ours = (idct if inverse else dct)(x, axes=2)
    torch.testing.assert_close(ours, scipy_transform(x, 2, inverse), rtol=0, atol=1e-13)


def test_the_number_of_items_of_electronics():
    x = random(63_001, 9).float().double()
    exact = scipy_transform(x, 2, False)
    torch.testing.assert_close(dct(x, 2), exact, rtol=0, atol=1e-12)
    theirs = scipy_transform(x, 2, False, np.float32)
    assert rms(dct(x.float(), 2) - exact) <= 2 * rms(theirs - exact)
    torch.testing.assert_close(idct(dct(x, 2), 2), x, rtol=0, atol=1e-12)


def test_error_is_at_most_twice_that_of_the_fft_of_pytorch():
    x = random(8, 4096).float()
    n = torch.arange(4096, dtype=torch.float64)
    rotation = torch.exp(-0.5j * torch.pi * n / 4096) * (2 / 4096) ** 0.5
    rotation[0] *= 0.5**0.5
    spectrum = torch.fft.fft(torch.cat([x[:, ::2], x[:, 1::2].flip(1)], 1))  # Makhoul's way round a real FFT
    theirs = (spectrum * rotation.to(torch.complex64)).real
    exact = scipy_transform(x.double(), 1, False)
    assert rms(dct(x) - exact) <= 2 * rms(theirs - exact) < 1e-6


def test_a_small_column_beside_a_large_one_keeps_its_precision():
    x = random(252, 16).float()
    x[:, ::2] *= 1e8
    exact = scipy_transform(x.double().T.contiguous(), 1, False).T
    columns = dct(x.T.contiguous()).T
    assert rms((columns - exact)[:, 1::2]) < 1e-6


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("shape", [(4, 6), (1, 7), (2, 5, 3)])
def test_the_matrix_of_cosines_is_the_reference(shape, axes):
    x = random(*shape)
    with use_backend("reference"):
        forward, back = dct(x, axes), idct(x, axes)
    torch.testing.assert_close(dct(x, axes), forward, rtol=0, atol=1e-14)
    torch.testing.assert_close(idct(x, axes), back, rtol=0, atol=1e-14)
    torch.testing.assert_close(dct_reference(back, axes), x, rtol=0, atol=1e-14)


def test_equals_the_formula():
    x = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    n = np.arange(3)
    want = [np.sqrt((1 if k == 0 else 2) / 3) * (x.numpy() * np.cos(np.pi * (2 * n + 1) * k / 6)).sum() for k in n]
    torch.testing.assert_close(dct(x), torch.tensor(want))


@pytest.mark.parametrize("transform", [dct, idct])
@pytest.mark.parametrize("axes", [1, 2])
def test_gradcheck(transform, axes):
    x = random(5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: transform(t, axes), x)
    assert torch.autograd.gradgradcheck(lambda t: transform(t, axes), x)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (2, 0, 3)])
def test_nothing_to_transform(shape):
    for axes in (1, 2):
        assert dct(torch.empty(shape), axes).shape == idct(torch.empty(shape), axes).shape == shape


def test_strided_and_half_precision_inputs():
    x = random(30, 20)
    torch.testing.assert_close(dct(x.T, 2), dct(x.T.contiguous(), 2), rtol=0, atol=0)
    half = x.bfloat16()
    assert torch.equal(dct(half), dct(half.float()))
    assert torch.equal(idct(x.half()), idct(x.half().float()))
    kept = x.clone()
    dct(x, 2)
    assert torch.equal(x, kept)


def test_same_bits_for_any_number_of_threads():
    x = random(251, 100).float()
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((dct(x, 2), idct(x, 2)))
    finally:
        torch.set_num_threads(before)
    for forward, back in results[1:]:
        assert torch.equal(forward, results[0][0]) and torch.equal(back, results[0][1])


def test_a_row_has_the_same_bits_wherever_it_stands():
    x = random(37, 96).float()
    for row in (0, 7, 36):
        assert torch.equal(dct(x)[row], dct(x[row]))


def test_opcheck_and_one_compiled_graph():
    x = random(6, 5).requires_grad_()
    torch.library.opcheck(torch.ops.mmfast.dct.default, (x, 2, False))

    def loss(x):
        return (dct(x, 2) * idct(x)).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(loss(x), x))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("dct: axes is 3; choose 1", (torch.ones(2, 2), 3)),
        ("dct: axes is 1.0; wanted a whole number", (torch.ones(2, 2), 1.0)),
        (r"the input is torch.int64 \[2\]; wanted floats", (torch.ones(2, dtype=torch.int64),)),
        (r"the input is torch.float32 \[2\]; wanted floats with at least 2 axes", (torch.ones(2), 2)),
        (r"the input is torch.complex64 \[2\]; wanted floats", (torch.ones(2, dtype=torch.complex64),)),
    ],
)
def test_messages(message, arguments):
    with pytest.raises(MmfastError, match=message):
        dct(*arguments)
