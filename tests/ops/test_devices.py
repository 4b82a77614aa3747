"""The ops on tensors of every device that is there: a whole step against plain PyTorch, streams, mixed devices."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import gathered_norm, project_rows, propagate_rows, use_backend
from mmfast.ops.csr import CSR
from tests.ops.graphs import operator, table

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_gpu = pytest.mark.skipif(len(DEVICES) == 1, reason="needs a GPU; every other test runs without")


def move(csr: CSR, device: str) -> CSR:
    return CSR(*(t if t is None else t.to(device) for t in csr))


def step(device, dtype=torch.float32):
    """Return the loss of a small model and its gradients, on the CPU."""
    csr, transpose = operator(97, 900, torch.float32, values=False)
    scales = csr.row_scale.to(device), csr.col_scale.to(device)
    csr = CSR(csr.ptr.to(device), csr.cols.to(device), None, *scales)
    transpose = CSR(transpose.ptr.to(device), transpose.cols.to(device), None, *scales[::-1])
    x = table(97, 64).to(device, dtype).requires_grad_()
    features, rows = table(97, 40, seed=2).to(device, torch.float32), torch.arange(0, 97, 3, device=device)
    weight = table(64, 40, seed=3).to(device, torch.float32).requires_grad_()
    final, own = propagate_rows(csr, transpose, x, rows, 3, dtype=torch.float32)
    content = project_rows(features, rows, weight)
    loss = (final * content).sum() + gathered_norm(own.float(), torch.arange(0, 30, 2, device=device))
    return [t.detach().cpu().double() for t in (loss, *torch.autograd.grad(loss, (x, weight)))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_step_has_the_numbers_of_plain_pytorch(device, dtype, tolerance):
    with use_backend("reference"):
        wanted = step("cpu", dtype)
    for got, want in zip(step(device, dtype), wanted, strict=True):
        assert (got - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_does_not_reach_into_an_op(device):
    features, rows = table(9, 40).to(device, torch.float32), torch.tensor([1, 4], device=device)
    weight = table(8, 40).to(device, torch.float32)
    with torch.autocast(device, torch.bfloat16):
        inside = project_rows(features, rows, weight)
    assert inside.dtype == torch.float32 and torch.equal(inside, project_rows(features, rows, weight))


@on_gpu
def test_ops_run_on_the_current_stream():
    wanted = step("cuda")
    streams = [torch.cuda.Stream() for _ in range(3)]
    for stream in streams:
        with torch.cuda.stream(stream):
            assert all(torch.equal(a, b) for a, b in zip(step("cuda"), wanted, strict=True))


@on_gpu
def test_tensors_of_two_devices_are_refused():
    csr, transpose = operator(11, 30)
    graph = move(csr, "cuda")
    with pytest.raises(MmfastError, match="ptr is on cpu, x on cuda:0; move both to one device"):
        propagate_rows(csr, transpose, table(11, 5).cuda(), torch.tensor([0]).cuda(), 1)
    with pytest.raises(RuntimeError, match="cols is on cpu; wanted cuda:0"):
        torch.ops.mmfast.propagate_step(graph.ptr, csr.cols, *graph[2:], table(11, 5).cuda(), None, 1.0)
    with pytest.raises(RuntimeError, match="index is on cpu; wanted cuda:0"):
        torch.ops.mmfast.gathered_norm(table(11, 5).cuda(), torch.tensor([0]))
