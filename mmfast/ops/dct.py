"""dct: orthonormal cosine transforms along features, or along items and features (LIRDRec's pre-processing)."""

from __future__ import annotations

from typing import Any

import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_whole, native, register


def dct(x: torch.Tensor, axes: int = 1) -> torch.Tensor:
    """Return the orthonormal DCT-II of x along its last axis (axes=1) or its last two (axes=2), in the shape of x.

    y_k = c_k sum_n x_n cos(pi (2n + 1) k / 2N), c_0 = sqrt(1/N), c_k = sqrt(2/N): `scipy.fft.dctn(norm="ortho")`.
    x: float [..., N] or [..., I, F] of any lengths below 2^31; half precision is computed in float32. The transform is
    a rotation: `idct` is its inverse and its gradient. Beyond the result it takes a few lines of x per thread on a
    CPU; on CUDA up to 256 MiB of samples, as much of their spectrum, and what cuFFT asks for.
    Raises MmfastError for arguments that do not fit.

    Example: `rotated = dct(features, axes=2)  # [I, F], over items and features`
    """
    return _transform(x, axes, inverse=False)


def idct(y: torch.Tensor, axes: int = 1) -> torch.Tensor:
    """Return the orthonormal DCT-III of y, the inverse of `dct`, along its last axis or its last two.

    x_n = sum_k c_k y_k cos(pi (2n + 1) k / 2N). Arguments, errors and precision are those of `dct`.

    Example: `torch.testing.assert_close(idct(dct(features)), features)`
    """
    return _transform(y, axes, inverse=True)


def dct_reference(x: torch.Tensor, axes: int = 1, inverse: bool = False) -> torch.Tensor:
    """Return what `dct` (inverse: `idct`) returns, in plain PyTorch: a product with the matrix of cosines per axis."""
    for axis in range(-axes, 0):
        matrix = _cosines(x.shape[axis], x.device).to(x.dtype)
        x = torch.tensordot(x, matrix if inverse else matrix.T, dims=([axis], [0])).movedim(-1, axis)
    return x.contiguous()


def _cosines(size: int, device: torch.device) -> torch.Tensor:
    """Return the orthonormal matrix C of y = C x, float64 [N, N]."""
    n = torch.arange(size, dtype=torch.int64, device=device)
    quarter_turns = (2 * n + 1) * n[:, None] % (4 * size)  # of pi / 2N, reduced while exact
    matrix = torch.cos(quarter_turns.double() * (torch.pi / (2 * max(size, 1)))) * (2 / max(size, 1)) ** 0.5
    matrix[:1] *= 0.5**0.5
    return matrix


def _transform(x: torch.Tensor, axes: int, inverse: bool) -> torch.Tensor:
    name = "idct" if inverse else "dct"
    check_whole(name, axes=axes)
    if axes not in (1, 2):
        raise MmfastError(f"{name}: axes is {axes}; choose 1 (the last axis) or 2 (the last two)")
    if x.dim() < axes or not x.is_floating_point():
        raise MmfastError(f"{name}: the input is {x.dtype} {list(x.shape)}; wanted floats with at least {axes} axes")
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    if not native("dct", x):
        return dct_reference(x, axes, inverse)
    return call_native("dct", x, axes, inverse)


def _fake(x: torch.Tensor, axes: int, inverse: bool) -> torch.Tensor:
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    _, ctx.axes, ctx.inverse = inputs


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return torch.ops.mmfast.dct(grad, ctx.axes, not ctx.inverse), None, None


register("dct", _fake, _backward, _setup)
