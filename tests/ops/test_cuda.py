"""What only a GPU can tell of the CUDA kernels: streams, graph capture, no waiting, TF32, the samplers' bits, wild ids.

Every test here is marked `cuda` and collected only where torch.cuda.is_available(); elsewhere pytest reports them as
deselected, which is no pass. They take launches that do not wait, so `make test-cuda` runs them by themselves, after
the rest of tests/ops under MMFAST_TEST_DEVICE=cuda.
"""

import copy
import subprocess
import sys

import pytest
import torch

from mmfast import ops
from mmfast.graph import user_item_graph

pytestmark = pytest.mark.cuda
DELAY = 200_000_000  # cycles of a GPU, about 0.1 s: much longer than a launch


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(size, most, seed=0):
    return torch.randint(most, (size,), generator=torch.Generator().manual_seed(seed))


def gradients(loss, *tables):
    return [loss, *torch.autograd.grad(loss, tables)]


def bpr(users, items, user, pos, neg):
    users, items = users.requires_grad_(), items.requires_grad_()
    return gradients(ops.bpr_loss(users, items, user, pos, neg), users, items)


def norm(table, index):
    table = table.requires_grad_()
    return gradients(ops.gathered_norm(table, index), table)


def project(table, rows, weight):
    weight = weight.requires_grad_()
    return gradients(ops.project_rows(table, rows, weight).square().sum(), weight)


def adam(param, exp_avg, exp_avg_sq, rows, grad):
    state = [param.clone(), exp_avg.clone(), exp_avg_sq.clone()]
    ops.adam_rows_(*state, rows, grad, lr=0.01, step=3)
    return state


def lazy_adam(param, exp_avg, exp_avg_sq, rows, grad):
    made = torch.ones(len(param), 2, dtype=torch.int32, device=param.device)
    state = [param.clone(), exp_avg.clone(), exp_avg_sq.clone(), made]
    ops.adam_catch_up_(*state, rows, lr=0.01, step=8)
    ops.adam_lazy_(*state, rows, grad, lr=0.01, step=9)
    ops.adam_catch_up_(*state, lr=0.01, step=9)
    return state


def triples(users):
    return [ops.sample_triples(users, 77, 200, 3, seed=5)]


TABLES = (randn(301, 64), randn(301, 64, seed=1), randn(301, 64, seed=2).square())
ROWS = torch.arange(0, 301, 7)
# Ops of a training step: they must not wait for the device.
CASES = {
    "bpr_loss": (bpr, (randn(301, 64), randn(203, 64, seed=1), ids(2048, 301), ids(2048, 203, 1), ids(2048, 203, 2))),
    "gathered_norm": (norm, (randn(301, 64), ids(2048, 301))),
    "project_rows": (project, (randn(301, 515), ROWS, randn(64, 515, seed=1))),
    "adam_rows_": (adam, (*TABLES, ROWS, randn(len(ROWS), 64, seed=3))),
    "adam_lazy_": (lazy_adam, (*TABLES, ROWS, randn(len(ROWS), 64, seed=3))),
    "sample_triples": (triples, (torch.arange(1000),)),
}
each_case = pytest.mark.parametrize("name", list(CASES))


def run(name, device):
    step, tensors = CASES[name]
    return [t.detach() for t in step(*(t.to(device, copy=True) for t in tensors))]


def close(got, want):
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=1e-4, atol=1e-5)


def same_bits(got, want):
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(got, want, strict=True))


@each_case
def test_equals_the_cpu_and_repeats_bit_by_bit(name):
    first = run(name, "cuda")
    close(first, run(name, "cpu"))
    assert same_bits(first, run(name, "cuda"))


@each_case
def test_does_not_wait_for_the_device(name):
    step, tensors = CASES[name]
    there = [t.cuda() for t in tensors]
    step(*there)  # allocations and library handles may wait
    start, end = torch.cuda.Event(), torch.cuda.Event()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(DELAY)
        start.record()
        step(*there)
        end.record()
        waited = start.query()  # the device still sleeps unless the step waited for it
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert not waited and end.query()


@each_case
def test_runs_on_the_current_stream(name):
    step, tensors = CASES[name]
    want = run(name, "cuda")
    late = [torch.zeros_like(t, device="cuda") for t in tensors]
    source = [t.cuda() for t in tensors]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(DELAY)
        for empty, full in zip(late, source, strict=True):
            empty.copy_(full)  # a kernel on another stream would read zeros
        got = step(*late)
    stream.synchronize()
    assert same_bits([t.detach() for t in got], want)


@each_case
def test_is_captured_in_a_graph(name):
    step, tensors = CASES[name]
    want = run(name, "cuda")
    static = [t.cuda() for t in tensors]
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        step(*static)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step(*static)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    assert same_bits([t.detach() for t in got], want)


def test_propagation_and_its_gradient_on_a_stream_of_their_own():
    pairs = torch.stack([ids(5000, 301), ids(5000, 203, 1)]).unique(dim=1).int().numpy()
    graph = user_item_graph(pairs[0], pairs[1], 301, 203)
    there, nodes = copy.deepcopy(graph).to("cuda"), randn(504, 64)
    with torch.cuda.stream(torch.cuda.Stream()):
        x = nodes.cuda().requires_grad_()
        got = gradients(there.propagate(x, 2).square().sum(), x)
        torch.cuda.current_stream().synchronize()
    y = nodes.clone().requires_grad_()
    close([t.detach() for t in got], [t.detach() for t in gradients(graph.propagate(y, 2).square().sum(), y)])


def lists(num_rows, num_items, seed):
    kept = torch.rand(num_rows, num_items, generator=torch.Generator().manual_seed(seed)) < 0.05
    return torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)]), kept.nonzero()[:, 1].int()


@pytest.mark.parametrize("k", [10, 100, 3000])
def test_products_are_float32_whatever_torch_allows(k):
    users, items = randn(130, 64), randn(6000, 64, seed=1)
    arguments = [t.cuda() for t in (users, items, *lists(130, 6000, 2), *lists(130, 6000, 3))]
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        results = []
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            found = [*ops.rank(*arguments, k), *ops.knn_graph(arguments[1], k), ops.knn_count(arguments[1], 0.3)]
            results.append(found)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert same_bits(*results)
    exact = torch.nn.functional.normalize(items.double(), dim=1)
    similarities = (exact @ exact.T).gather(1, results[0][3].cpu().long())
    assert (similarities - results[0][4].cpu()).abs().max() < 1e-6


def test_samplers_draw_the_numbers_of_the_cpu():
    ptr, items = lists(400, 300, 4)
    users, candidates, weights = ids(5000, 400), torch.arange(0, 300, 2).int(), torch.rand(200_003) + 0.01
    filled = torch.nonzero(ptr.diff()).flatten()
    for draw, *tensors in (
        (lambda *t: ops.sample_negatives(*t, seed=3, offset=2**33), users, ptr, items, candidates),
        (lambda *t: ops.sample_user_rows(*t, 150, 7, seed=3), ptr, filled),
        (lambda *t: ops.sample_triples(*t, 77, 350, 7, seed=3), filled),
        (lambda *t: ops.sample_edges(*t, 50_000, seed=3, stream=9), weights),
    ):
        assert torch.equal(draw(*tensors), draw(*(t.cuda() for t in tensors)).cpu())


def test_a_wild_id_is_named_and_stops_the_device():
    program = (
        "import torch, mmfast.ops as ops\n"
        "table, index = torch.ones(4, 2, device='cuda'), torch.tensor([0, 9], device='cuda')\n"
        "ops.bpr_loss(table, table, index.clamp(max=3), index, index.clamp(max=3))\n"
        "torch.cuda.synchronize()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "pos_index holds" in result.stdout + result.stderr


def test_tensors_of_two_devices_are_refused():
    table, index = torch.ones(4, 2, device="cuda"), torch.tensor([0, 1])
    with pytest.raises(RuntimeError, match="user_index is on cpu; wanted cuda:0"):
        ops.bpr_loss(table, table, index, index, index)
