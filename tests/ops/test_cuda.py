"""What only a GPU can tell of the CUDA kernels: streams, graph capture, no waiting, TF32, the samplers' bits, wild ids.

Every test here is marked `cuda`; without a GPU each is skipped and says so (tests/conftest.py), which is no pass. They
take launches that do not wait, so `make test-cuda` runs them by themselves, after the rest of tests/ops under
MMFAST_TEST_DEVICE=cuda. The ops and what keeps some of them from being captured are in tests/ops/cases.py.
"""

import copy
import subprocess
import sys

import pytest
import torch

from mmfast import ops, optim
from mmfast.embeddings import RowTable
from mmfast.errors import MmfastError
from mmfast.graph import user_item_graph
from tests.ops.cases import CASES, ids, lists, randn

pytestmark = pytest.mark.cuda
DELAY = 200_000_000  # cycles of a GPU, about 0.1 s: much longer than a launch


each_case = pytest.mark.parametrize("name", list(CASES))
# Ops of a training step must not wait for the device. The others read numbers on the host, which no graph can repeat.
each_captured_case = pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.host])


def gradients(loss, *tables):
    return [loss, *torch.autograd.grad(loss, tables)]


def run(name, device):
    step, tensors, _ = CASES[name]
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


@each_captured_case
def test_does_not_wait_for_the_device(name):
    step, tensors, _ = CASES[name]
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
    step, tensors, _ = CASES[name]
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


@each_captured_case
def test_is_captured_in_a_graph(name):
    step, tensors, _ = CASES[name]
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


def adam_step(whole, lazy, rows, grad, step):
    ops.adam_catch_up_(*lazy, rows, lr=0.01, step=step)
    step += 1
    ops.adam_lazy_(*lazy, rows, grad, lr=0.01, step=step)
    ops.adam_rows_(*whole, rows, grad, lr=0.01, weight_decay=0.1, step=step)


def test_a_captured_step_of_adam_is_another_step_at_every_replay():
    tables = [randn(301, 64), torch.zeros(301, 64), torch.zeros(301, 64)]
    state = [t.cuda() for t in (*tables, *tables, torch.zeros(301, 2, dtype=torch.int32))]
    batches = [(torch.arange(start, 301, 7).cuda()[:40], randn(40, 64, seed=start).cuda()) for start in range(4)]
    rows, grad, step = *(t.clone() for t in batches[0]), torch.zeros((), dtype=torch.int64, device="cuda")
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        adam_step(state[:3], state[3:], rows, grad, step)
    torch.cuda.current_stream().wait_stream(warm_up)
    plain = [t.clone() for t in state]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        adam_step(state[:3], state[3:], rows, grad, step)
    for number, (next_rows, next_grad) in enumerate(batches[1:], start=1):
        rows.copy_(next_rows)
        grad.copy_(next_grad)
        graph.replay()
        adam_step(plain[:3], plain[3:], next_rows, next_grad, number)
    assert int(step) == 4 and same_bits(state, plain)


@pytest.mark.parametrize("lazy_numbers", [0, 1 << 23])
def test_the_optimizer_of_a_coalesced_gradient_does_not_wait(monkeypatch, lazy_numbers):
    monkeypatch.setattr(optim, "LAZY_NUMBERS", lazy_numbers)
    table, rows, values = RowTable(randn(301, 64).cuda()), torch.arange(0, 301, 7).cuda(), randn(43, 64).cuda()
    optimizer = optim.Adam(table.parameters(), 0.01, tables=[table])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            table.read(rows)
            table.parameter.grad = torch.sparse_coo_tensor(
                rows[None], values, (301, 64), is_coalesced=True, check_invariants=False
            )
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (table.waiting is None) == (lazy_numbers > 0)


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
    with pytest.raises(MmfastError, match="user_index is on cpu, users on cuda:0"):
        ops.bpr_loss(table, table, index, index, index)
