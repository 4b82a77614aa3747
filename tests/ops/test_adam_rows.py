"""adam_rows_: against float64, torch's dense Adam over 20 steps, awkward sizes, threads, messages."""

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.adam_rows import adam_rows_
from tests.accuracy import assert_at_most_twice

OPTIONS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


def tables(num_rows, width, num_touched, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    param, exp_avg, grad = (torch.randn(num_rows, width, dtype=torch.float64, generator=generator) for _ in range(3))
    exp_avg_sq = torch.rand(num_rows, width, dtype=torch.float64, generator=generator)
    rows = torch.randperm(num_rows, generator=generator)[:num_touched].sort()[0]
    return [t.to(dtype) for t in (param, exp_avg, exp_avg_sq)], rows, grad[rows].to(dtype)


def stepped(tables_rows_grad, **options):
    state, rows, grad = tables_rows_grad
    state = [t.clone() for t in state]
    adam_rows_(*state, rows, grad, **OPTIONS | {"step": 3} | options)
    return state


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("num_rows", "width", "num_touched"),
    [(0, 3, 0), (1, 1, 1), (5, 7, 0), (31, 9, 31), (97, 64, 13), (53, 33, 52), (11, 1, 4), (7, 0, 2)],
)
def test_error_is_at_most_twice_that_of_pytorch(num_rows, width, num_touched, weight_decay):
    case = tables(num_rows, width, num_touched)
    case_32 = tables(num_rows, width, num_touched, torch.float32)
    with use_backend("reference"):
        exact = stepped(case, weight_decay=weight_decay)
        torch_32 = stepped(case_32, weight_decay=weight_decay)
    for ours, want in zip(stepped(case, weight_decay=weight_decay), exact, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-13, atol=1e-15)
    for ours, theirs, want in zip(stepped(case_32, weight_decay=weight_decay), torch_32, exact, strict=True):
        assert_at_most_twice(ours, theirs, want)


@pytest.mark.parametrize("form", [{"foreach": False}, {"fused": True}])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_twenty_steps_equal_torch_adam_with_a_dense_gradient(form, weight_decay):
    (ours, _, _), _, _ = tables(101, 37, 0, torch.float32)
    exp_avg, exp_avg_sq = torch.zeros_like(ours), torch.zeros_like(ours)
    theirs = torch.nn.Parameter(ours.clone())
    optimizer = torch.optim.Adam([theirs], lr=0.01, weight_decay=weight_decay, **form)
    for step in range(1, 21):
        _, rows, grad = tables(101, 37, 13, torch.float32, seed=step)
        theirs.grad = torch.zeros_like(ours).index_copy_(0, rows, grad)
        optimizer.step()
        adam_rows_(ours, exp_avg, exp_avg_sq, rows, grad, **OPTIONS, weight_decay=weight_decay, step=step)
    state = optimizer.state[theirs]
    for a, b in ((ours, theirs), (exp_avg, state["exp_avg"]), (exp_avg_sq, state["exp_avg_sq"])):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_same_bits_for_any_number_of_threads():
    case = tables(1009, 37, 400, torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(stepped(case))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_opcheck_and_one_compiled_graph():
    state, rows, grad = tables(11, 5, 4)
    arguments = (0.01, 0.9, 0.999, 1e-8, 0.0, torch.tensor(1))
    torch.library.opcheck(torch.ops.mmfast.adam_rows_.default, (*state, rows, grad, *arguments))

    def step(*tensors):
        adam_rows_(*tensors, **OPTIONS, step=1)

    want = stepped((state, rows, grad), step=1)
    torch.compile(step, fullgraph=True, backend="aot_eager")(*state, rows, grad)
    assert all(torch.equal(a, b) for a, b in zip(state, want, strict=True))


def bad_arguments():
    (p, m, v), rows, grad = tables(11, 5, 4)
    yield r"exp_avg is torch.float64 \[10, 5\]; wanted torch.float64 \[11, 5\]", (p, m[1:], v, rows, grad), {}
    yield "exp_avg_sq is torch.float32", (p, m, v.float(), rows, grad), {}
    yield r"grad is torch.float64 \[3, 5\]; wanted torch.float64 \[4, 5\]", (p, m, v, rows, grad[1:]), {}
    yield "rows is torch.int32; wanted int64", (p, m, v, rows.int(), grad), {}
    yield "step is 0; wanted 1", (p, m, v, rows, grad), {"step": 0}
    yield "step is 0; wanted 1 to 2", (p, m, v, rows, grad), {"step": torch.tensor([0])}
    yield (
        r"step is torch.int64 \[2\]; wanted an int or a tensor of one int64",
        (p, m, v, rows, grad),
        {"step": torch.ones(2, dtype=torch.int64)},
    )
    yield "rows are not sorted and unique; coalesce", (p, m, v, rows.flip(0), grad), {}
    yield "rows holds ids from . to 11; wanted 0 to 10", (p, m, v, rows.index_fill(0, torch.tensor([3]), 11), grad), {}
    yield "param is Half; wanted Float or Double", (p.half(), m.half(), v.half(), rows, grad.half()), {}
    yield "param is not contiguous", (p.T.contiguous().T, m, v, rows, grad), {}


@pytest.mark.parametrize(("message", "arguments", "options"), list(bad_arguments()))
def test_messages(message, arguments, options):
    with pytest.raises(MmfastError, match=message):
        adam_rows_(*arguments, **OPTIONS | {"step": 1} | options)
