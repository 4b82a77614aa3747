"""What every differentiable op must show: the reference's value and gradients, and PyTorch's accuracy in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mmfast.ops import use_backend

ROUNDING = 2.0**-24  # of a number to float32, at most, relative to the number


def value_and_gradients(fn: Callable, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return fn(*tensors) and the gradients of its entries, weighted 3, 4, 5 ... where there is more than one."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = fn(*leaves)
    weights = torch.arange(3.0, 3 + value.numel()).to(value).view(value.shape)
    gradients = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
    zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(gradients, leaves, strict=True))
    return [value.detach(), *zeros]


def assert_at_most_twice(
    ours: torch.Tensor, theirs: torch.Tensor, want: torch.Tensor, roundings: int = 1, unit: float = ROUNDING
) -> None:
    """Assert that our error is at most twice PyTorch's own at the same precision, `theirs`; want: exact, float64.

    roundings: of the largest number, allowed beside it; unit: the relative size of one.
    """
    # One must stay: the exact result itself errs by it once it is stored, while PyTorch's may be exact by luck, most of
    # all where a result has few terms. A caller that needs more says why.
    assert ours.shape == theirs.shape == want.shape
    if want.numel():
        error, torch_error = ((t.double() - want).abs().max() for t in (ours, theirs))
        assert error <= 2 * torch_error + roundings * unit * want.abs().max()


def assert_as_accurate_as_torch(fn: Callable, *tensors: torch.Tensor, roundings: int = 1) -> None:
    """Compare with the reference: float64 to rounding, float32 to twice PyTorch's own float32 error.

    roundings: as `assert_at_most_twice` takes them.
    """
    with use_backend("reference"):
        exact = value_and_gradients(fn, *tensors)
        torch_32 = value_and_gradients(fn, *(t.float() for t in tensors))
    for ours, want in zip(value_and_gradients(fn, *tensors), exact, strict=True):
        size = float(want.abs().max()) if want.numel() else 0.0
        torch.testing.assert_close(ours, want, rtol=1e-10, atol=1e-12 * max(1.0, size))
    ours_32 = value_and_gradients(fn, *(t.float() for t in tensors))
    for ours, theirs, want in zip(ours_32, torch_32, exact, strict=True):
        assert ours.dtype == torch.float32
        assert_at_most_twice(ours, theirs, want, roundings)


def ragged(num_rows: int, width: int, generator: torch.Generator, most: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (values float64 [A, width], ptr int64 [num_rows + 1]); rows of 0 to `most` values, the first one empty."""
    counts = torch.randint(0, most + 1, (num_rows,), generator=generator)
    counts[0] = 0
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return torch.randn(int(ptr[-1]), width, dtype=torch.float64, generator=generator), ptr
