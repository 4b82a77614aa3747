"""propagate_partitioned: the bits of one rank, on ranks that are threads and on two processes."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.csr import CSR
from mmfast.ops.propagate import READOUTS, propagate
from mmfast.ops.propagate_partitioned import propagate_partitioned
from mmfast.ranks import join_group, leave_ranks
from tests.ops.graphs import operator, table

BOUNDS = [0, 40, 40, 77, 97]  # the second rank has no rows


def one_rank(csr, transpose, x, weight, *arguments):
    x = x.clone().requires_grad_()
    out = propagate(csr, transpose, x, *arguments)
    return out, torch.autograd.grad((out * weight).sum(), x)[0]


def on_threads(csr, transpose, x, weight, *arguments):
    """The same with the rows between BOUNDS on ranks of their own."""
    spans = list(itertools.pairwise(BOUNDS))
    barrier, shared = threading.Barrier(len(spans)), [None] * len(spans)

    def rank(number):
        def gather(rows):
            shared[number] = rows
            barrier.wait(60)
            whole = torch.cat(shared)
            barrier.wait(60)
            return whole

        a, b = spans[number]
        mine = x[a:b].clone().requires_grad_()
        part = None if transpose is csr else transpose.block(a, b)
        out = propagate_partitioned(csr.block(a, b), mine, gather, *arguments, transpose=part)
        return out, torch.autograd.grad((out * weight[a:b]).sum(), mine)[0]

    with ThreadPoolExecutor(len(spans)) as pool:
        parts = list(pool.map(rank, range(len(spans))))
    return [torch.cat(tables) for tables in zip(*parts, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("num_layers", [0, 1, 2, 6])
def test_ranks_have_the_bits_of_one_rank(num_layers, readout, dtype):
    csr, transpose = operator(97, 900, torch.float64 if dtype == torch.float64 else torch.float32)
    x, weight = table(97, 67).to(dtype), table(97, 67, seed=4).to(dtype)
    whole = one_rank(csr, transpose, x, weight, num_layers, readout)
    parts = on_threads(csr, transpose, x, weight, num_layers, readout)
    for got, want in zip(parts, whole, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables_side_by_side(dtype):
    csr, transpose = operator(97, 900, torch.float32)
    x, weight = (torch.stack([table(97, 6, seed + t).to(dtype) for t in range(3)], 1) for seed in (0, 5))
    whole, parts = (run(csr, transpose, x, weight, 2, "mean") for run in (one_rank, on_threads))
    assert whole[0].shape == (97, 3, 6)
    assert all(torch.equal(got, want) for got, want in zip(parts, whole, strict=True))


@pytest.mark.parametrize("side", ["csr", "transpose"])
def test_values_that_need_a_gradient_are_refused(side):
    parts = dict(zip(("csr", "transpose"), operator(11, 30, torch.float32), strict=True))
    values = parts[side].values.clone().requires_grad_()
    parts[side] = parts[side]._replace(values=values)
    arguments = {"x": table(11, 4).float(), "gather": lambda rows: rows, "num_layers": 2}
    with pytest.raises(MmfastError, match=f"propagate_partitioned: {side}.values need a gradient, which .*; detach"):
        propagate_partitioned(**parts, **arguments)
    with torch.no_grad():
        got = propagate_partitioned(**parts, **arguments)
    detached = parts | {side: parts[side]._replace(values=values.detach())}
    assert torch.equal(got, propagate_partitioned(**detached, **arguments))


def symmetric(num_nodes):
    """A symmetric operator with degree scales."""
    csr, transpose = operator(num_nodes, 300, torch.float32, values=False, scales=False)
    index = torch.cat([csr.rows() * num_nodes + csr.cols, transpose.rows() * num_nodes + transpose.cols]).unique()
    degree = torch.bincount(index // num_nodes, minlength=num_nodes)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)])
    scale = (degree + 1e-7) ** -0.5
    return CSR(ptr, (index % num_nodes).int(), None, scale, scale)


def test_a_symmetric_operator_needs_no_transpose():
    csr, x = symmetric(97), table(97, 64).float()
    parts = on_threads(csr, csr, x, x, 3, "mean")
    for got, want in zip(parts, one_rank(csr, csr, x, x, 3, "mean"), strict=True):
        assert torch.equal(got, want)


def process(number, address, queue):
    torch.set_num_threads(1)
    join_group(dist.FileStore(address, 2), number, 2)
    csr, x = symmetric(96), table(96, 64).float()
    mine = x[48 * number : 48 * number + 48].clone().requires_grad_()

    def gather(rows):
        whole = rows.new_empty(96, rows.shape[1])
        dist.all_gather_into_tensor(whole, rows.contiguous())
        return whole

    out = propagate_partitioned(csr.block(48 * number, 48 * number + 48), mine, gather, 3)
    grad = torch.autograd.grad(out.square().sum(), mine)[0]
    queue.put((number, out.detach().numpy(), grad.numpy()))
    leave_ranks()


def test_two_processes_have_the_bits_of_one_rank(tmp_path):
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    address = f"{tmp_path}/meet"
    workers = [context.Process(target=process, args=(number, address, queue)) for number in range(2)]
    for worker in workers:
        worker.start()
    parts = sorted((queue.get() for _ in workers), key=lambda part: part[0])
    for worker in workers:
        worker.join(60)
    csr, x = symmetric(96), table(96, 64).float().requires_grad_()
    want = propagate(csr, csr, x, 3)
    assert torch.equal(torch.cat([torch.from_numpy(out) for _, out, _ in parts]), want)
    (grad,) = torch.autograd.grad(want.square().sum(), x)
    assert torch.equal(torch.cat([torch.from_numpy(grad) for _, _, grad in parts]), grad)


def test_reference_and_messages():
    csr, x = symmetric(97), table(97, 8).float()
    with use_backend("reference"):
        reference = propagate_partitioned(csr, x, lambda rows: rows, 2)
    torch.testing.assert_close(reference, propagate(csr, csr, x, 2))
    with use_backend("reference"):
        half = propagate_partitioned(csr, x.bfloat16(), lambda rows: rows, 2)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, propagate_partitioned(csr, x.bfloat16(), lambda rows: rows, 2))
    for match, arguments in {
        "readout is 'best'; choose one of mean, sum, last": (csr, x, lambda rows: rows, 2, "best"),
        "num_layers is -1; choose 0 or more": (csr, x, lambda rows: rows, -1),
        "csr has 97 rows, x 96; wanted the rows of one rank": (csr, x[:96], lambda rows: rows, 2),
        r"x is torch.float32 \[97\]; wanted \[R, D\] or": (csr, x[:, 0], lambda rows: rows, 2),
        r"x is torch.int64 \[97, 8\]; wanted \[R, D\] or": (csr, x.long(), lambda rows: rows, 2),
    }.items():
        with pytest.raises(MmfastError, match=match):
            propagate_partitioned(*arguments)
    with pytest.raises(MmfastError, match="col_scale has size 97 along axis 0; wanted 50"):
        propagate_partitioned(csr, x, lambda rows: rows[:50].contiguous(), 1)
    with pytest.raises(RuntimeError, match=r"base is \[97, 8\]; wanted \[96, 8\]"):
        torch.ops.mmfast.propagate_step(*csr.block(0, 96), x, x, 1.0)
