"""Row-lazy Adam equals dense Adam: against float64 over 200 steps, the rule's error table, odd sizes, messages."""

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.adam_lazy import adam_catch_up_, adam_lazy_
from mmfast.ops.adam_rows import adam_rows_

OPTIONS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


def start(num_rows, width, dtype, seed=0):
    """A table, zero moments and steps."""
    param = torch.randn(num_rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return [param, torch.zeros_like(param), torch.zeros_like(param), torch.zeros(num_rows, 2, dtype=torch.int32)]


def gradients(num_rows, width, touched, steps, scale=1.0, seed=1):
    """Rows and gradient of every step; some rows are touched often, some hardly ever."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.arange(1, num_rows + 1) ** -1.0
    for _ in range(steps):
        rows = torch.multinomial(chance, touched, generator=generator).sort()[0]
        yield rows, scale * torch.randn(touched, width, dtype=torch.float64, generator=generator)


def lazily(state, steps, first=1, read=True, **options):
    """Make the steps as training does: read the rows of a batch, then step them."""
    options = OPTIONS | options
    for step, (rows, grad) in enumerate(steps, start=first):
        if read:
            adam_catch_up_(*state, rows.flip(0), **options, step=step - 1)
        adam_lazy_(*state, rows, grad.to(state[0].dtype), **options, step=step)
    return state


def densely(state, steps, **options):
    """Make the steps with torch.optim.Adam and a dense gradient; return parameter and moments."""
    options = OPTIONS | options
    param = torch.nn.Parameter(state[0].clone())
    betas = (options["beta1"], options["beta2"])
    optimizer = torch.optim.Adam([param], lr=options["lr"], betas=betas, eps=options["eps"], foreach=False)
    for rows, grad in steps:
        param.grad = torch.zeros_like(param).index_copy_(0, rows, grad.to(param.dtype))
        optimizer.step()
    return [param.detach(), *(optimizer.state[param][name] for name in ("exp_avg", "exp_avg_sq"))]


def relative(got, want):
    return float((got.double() - want).norm() / want.norm())


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-14])
@pytest.mark.parametrize("touched", [1, 5, 40])
def test_200_steps_and_a_flush_equal_dense_adam(touched, scale):
    steps = list(gradients(53, 33, touched, 200, scale))
    exact = densely(start(53, 33, torch.float64), steps)
    for dtype, wanted in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        state = lazily(start(53, 33, dtype), steps)
        adam_catch_up_(*state, **OPTIONS, step=200)
        torch_32 = densely(start(53, 33, dtype), steps)
        for ours, theirs, want in zip(state[:3], torch_32, exact, strict=True):
            assert relative(ours, want) <= max(wanted / 10, 2 * relative(theirs, want))
            room = max(wanted * float(want.abs().max()), 2 * float((theirs - want).abs().max()))
            torch.testing.assert_close(ours.double(), want, rtol=wanted, atol=room)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.999), (0.0, 0.0), (0.94, 0.9), (0.5, 0.5), (0.99, 0.9999)])
def test_other_settings(betas):
    options = {"beta1": betas[0], "beta2": betas[1], "eps": 1e-3}
    steps = list(gradients(23, 7, 2, 120))
    exact = densely(start(23, 7, torch.float64), steps, **options)
    state = lazily(start(23, 7, torch.float64), steps, **options)
    adam_catch_up_(*state, **OPTIONS | options, step=120)
    for ours, want in zip(state, exact, strict=False):
        torch.testing.assert_close(ours, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("missed", [1, 5, 15, 60, 300, 3000])
@pytest.mark.parametrize("made", [1, 2, 10, 50, 1000, 100_000])
def test_missed_steps_are_a_sum_that_the_rules_give(made, missed):
    # One row whose numbers have every ratio of eps to sqrt(v) that matters, against the steps one by one in float64.
    ratio = 10.0 ** torch.arange(-8, 9, dtype=torch.float64)
    v = (1e-8 / ratio)[None] ** 2
    moved = []
    for step_by_step, dtype in ((True, torch.float64), (False, torch.float64), (False, torch.float32)):
        state = [torch.zeros_like(v, dtype=dtype), v.sqrt().to(dtype), v.to(dtype), torch.full((1, 2), made).int()]
        with use_backend("reference" if step_by_step else "native"):
            adam_catch_up_(*state, torch.tensor([0]), **OPTIONS, step=made + missed)
        moved.append(state[0].double())
    assert (moved[1] / moved[0] - 1).abs().max() < 1e-13
    assert (moved[2] / moved[0] - 1).abs().max() < 5e-7


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.9), (0.94, 0.9), (0.9, 0.82), (0.5, 0.3), (0.03, 1e-3)])
@pytest.mark.parametrize("missed", [991, 3991])
def test_many_missed_steps_of_other_betas(betas, missed):
    steps = [(torch.arange(5), start(5, 3, torch.float64, seed=2)[0])]
    made = []
    for backend, dtype in (("reference", torch.float64), ("native", torch.float64), ("native", torch.float32)):
        with use_backend(backend):
            state = lazily(start(5, 3, dtype), steps, beta1=betas[0], beta2=betas[1])
            state[0].zero_()  # of the movement alone every digit is seen
            adam_catch_up_(*state, **OPTIONS | {"beta1": betas[0], "beta2": betas[1], "step": 1 + missed})
        made.append([part.double() for part in (state[0], state[3])])
    for (moved, row_steps), room in zip(made[1:], (1e-12, 1e-6), strict=True):
        assert float((moved - made[0][0]).abs().max()) <= room * float(made[0][0].abs().max())
        assert torch.equal(row_steps, made[0][1])


@pytest.mark.parametrize("betas", [(0.95, 0.9), (0.9, 0.81), (0.7, 0.49), (0.99, 0.98), (0.9, 0.0)])
def test_rows_do_not_wait_where_each_step_is_further_than_the_last(betas):
    table = start(4, 3, torch.float64)
    message = rf"beta1 is {betas[0]}, beta2 .*; wanted beta1 below sqrt\(beta2\)"
    options = {"beta1": betas[0], "beta2": betas[1]}
    with pytest.raises(MmfastError, match=message):
        adam_catch_up_(*table, **OPTIONS | options, step=1)
    with pytest.raises(MmfastError, match=message):
        adam_lazy_(*table, torch.tensor([1]), torch.ones(1, 3, dtype=torch.float64), **OPTIONS | options, step=1)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.mmfast.adam_catch_up_(*table, None, 0.1, *betas, 1e-8, torch.tensor(1))


@pytest.mark.parametrize("betas", [(0.9, 0.999999), (0.9999, 0.99985)])
@pytest.mark.parametrize("made", [100_000, 131_000, 500_000])
def test_betas_next_to_one_after_many_steps(betas, made):
    results = []
    for backend in ("native", "reference"):
        state = start(2, 3, torch.float64)
        state[1], state[2], state[3] = state[0].cos(), state[0].square() + 0.1, torch.full((2, 2), made).int()
        with use_backend(backend):
            adam_catch_up_(*state, lr=0.01, beta1=betas[0], beta2=betas[1], step=torch.tensor(made + 150))
        results.append(state)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("num_rows", "width", "touched"), [(1, 1, 1), (5, 7, 1), (31, 9, 31), (97, 64, 13), (11, 1, 4), (7, 0, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odd_sizes_equal_the_reference(num_rows, width, touched, dtype):
    steps = list(gradients(num_rows, width, touched, 25))
    ours = lazily(start(num_rows, width, dtype), steps)
    with use_backend("reference"):
        want = lazily(start(num_rows, width, dtype), steps)
    assert torch.equal(ours[3], want[3])
    for a, b in zip(ours[:3], want[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6 if dtype == torch.float32 else 1e-12, atol=2e-7)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_nothing_to_do(backend):
    with use_backend(backend):
        for state in (start(0, 3, torch.float32), start(4, 3, torch.float32)):
            before = [t.clone() for t in state]
            adam_catch_up_(*state, **OPTIONS, step=9)
            adam_lazy_(*state, torch.empty(0, dtype=torch.int64), torch.empty(0, 3), **OPTIONS, step=10)
            assert all(torch.equal(a, b) for a, b in zip(state[:3], before[:3], strict=True))


def test_rows_that_never_wait_are_those_of_adam_rows():
    state, dense = start(11, 5, torch.float32), start(11, 5, torch.float32)[:3]
    every_row = torch.arange(11)
    for step, (_, grad) in enumerate(gradients(11, 5, 11, 10), start=1):
        adam_lazy_(*state, every_row, grad.float(), **OPTIONS, step=step)
        adam_rows_(*dense, every_row, grad.float(), **OPTIONS, step=step)
    for a, b in zip(state[:3], dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=2e-7)


def test_reading_twice_repeats_and_flushing_change_nothing_more():
    steps = list(gradients(31, 9, 3, 40))
    once, twice = (lazily(start(31, 9, torch.float32), steps) for _ in range(2))
    rows = torch.tensor([7, 3, 7, 30, 3])
    adam_catch_up_(*once, rows.unique(), **OPTIONS, step=40)
    for _ in range(2):
        adam_catch_up_(*twice, rows, **OPTIONS, step=40)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    adam_catch_up_(*once, **OPTIONS, step=40)
    flushed = [t.clone() for t in once]
    adam_catch_up_(*once, **OPTIONS, step=40)
    assert all(torch.equal(a, b) for a, b in zip(once, flushed, strict=True))
    made = once[3][:, 1]
    assert set(made.tolist()) == {0, 40} and bool((once[1][made == 0] == 0).all())  # rows without a gradient so far


def test_a_flush_on_the_way_changes_only_rounding():
    steps = list(gradients(31, 9, 3, 90))
    straight = lazily(start(31, 9, torch.float64), steps)
    state = lazily(start(31, 9, torch.float64), steps[:50])
    adam_catch_up_(*state, **OPTIONS, step=50)
    state = lazily(state, steps[50:], first=51, read=False)
    for one in (straight, state):
        adam_catch_up_(*one, **OPTIONS, step=90)
    for a, b in zip(straight[:3], state[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_same_bits_for_any_number_of_threads():
    steps = list(gradients(1009, 37, 100, 30))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(lazily(start(1009, 37, torch.float32), steps))
            adam_catch_up_(*results[-1], **OPTIONS, step=30)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_opcheck_and_one_compiled_graph():
    (rows, grad), *_ = steps = list(gradients(11, 5, 4, 3))
    state = lazily(start(11, 5, torch.float64), steps)
    settings = tuple(OPTIONS.values())
    for some in (None, rows):
        torch.library.opcheck(torch.ops.mmfast.adam_catch_up_.default, (*state, some, *settings, torch.tensor(3)))
    torch.library.opcheck(torch.ops.mmfast.adam_lazy_.default, (*state, rows, grad, *settings, torch.tensor(4)))

    def step(*tensors):
        adam_catch_up_(*tensors[:5], **OPTIONS, step=3)
        adam_lazy_(*tensors, **OPTIONS, step=4)

    want = lazily([t.clone() for t in state], steps[:1], first=4)
    torch.compile(step, fullgraph=True, backend="aot_eager")(*state, rows, grad)
    assert all(torch.equal(a, b) for a, b in zip(state, want, strict=True))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_step_that_is_a_tensor_is_counted_up_in_place(backend):
    steps, number = list(gradients(11, 5, 4, 5)), torch.zeros(1, dtype=torch.int64)
    state = start(11, 5, torch.float32)
    with use_backend(backend):
        for rows, grad in steps:
            adam_catch_up_(*state, rows, **OPTIONS, step=number)
            adam_lazy_(*state, rows, grad.float(), **OPTIONS, step=number.add_(1))
        want = lazily(start(11, 5, torch.float32), steps)
    assert all(torch.equal(a, b) for a, b in zip(state, want, strict=True))


def bad_arguments():
    p, m, v, made = start(11, 5, torch.float64)
    rows, grad = torch.arange(4), torch.zeros(4, 5, dtype=torch.float64)
    yield r"exp_avg is torch.float64 \[10, 5\]; wanted torch.float64 \[11, 5\]", (p, m[1:], v, made, rows, grad), {}
    yield r"row_steps is torch.int64 \[11, 2\]; wanted int32 \[11, 2\]", (p, m, v, made.long(), rows, grad), {}
    yield r"row_steps is torch.int32 \[11\]; wanted", (p, m, v, made[:, 0], rows, grad), {}
    yield r"rows is torch.int32 \[4\]; wanted int64", (p, m, v, made, rows.int(), grad), {}
    yield r"grad is torch.float64 \[3, 5\]; wanted torch.float64 \[4, 5\]", (p, m, v, made, rows, grad[1:]), {}
    yield "step is 0; wanted 1", (p, m, v, made, rows, grad), {"step": 0}
    yield "step is 2147483648; wanted 1 to", (p, m, v, made, rows, grad), {"step": 2**31}
    yield "step is 0; wanted 1 to 2", (p, m, v, made, rows, grad), {"step": torch.tensor(0)}
    yield "step is 2147483648; wanted 1 to 2", (p, m, v, made, rows, grad), {"step": torch.tensor(2**31)}
    yield (
        r"step is torch.int32 \[1\]; wanted an int or a tensor of one int64",
        (p, m, v, made, rows, grad),
        {"step": torch.ones(1, dtype=torch.int32)},
    )
    yield "step is 1.0; wanted a whole number", (p, m, v, made, rows, grad), {"step": 1.0}
    yield "rows are not sorted and unique; coalesce", (p, m, v, made, rows.flip(0), grad), {}
    yield "rows holds ids from 0 to 11; wanted 0 to 10", (p, m, v, made, rows.index_fill(0, rows[3:], 11), grad), {}
    half = [t.half() for t in (p, m, v)]
    yield "param is Half; wanted Float or Double", (*half, made, rows, grad.half()), {}
    yield "exp_avg is not contiguous", (p, m.T.contiguous().T, v, made, rows, grad), {}


SETTINGS = [
    ("beta1", 1.5, "beta1 is 1.5; wanted 0 or more and less than 1"),
    ("beta2", 1.0, "beta2 is 1.0; wanted 0 or more and less than 1"),
    ("beta1", -0.1, "beta1 is -0.1; wanted 0 or more"),
    ("beta2", float("nan"), "beta2 is nan; wanted 0 or more"),
    ("lr", -0.01, "lr is -0.01; wanted a finite number, 0 or more"),
    ("eps", float("inf"), "eps is inf; wanted a finite number, 0 or more"),
]


@pytest.mark.parametrize(("name", "value", "message"), SETTINGS)
def test_settings_that_adam_cannot_have(name, value, message):
    state, rows, grad = start(11, 5, torch.float32), torch.arange(4), torch.zeros(4, 5)
    options = OPTIONS | {name: value}
    for op, call in {
        "adam_catch_up_": lambda: adam_catch_up_(*state, **options, step=3),
        "adam_lazy_": lambda: adam_lazy_(*state, rows, grad, **options, step=3),
        "adam_rows_": lambda: adam_rows_(*state[:3], rows, grad, **options, step=3),
    }.items():
        with pytest.raises(MmfastError, match=f"{op}: {message}"):
            call()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_row_that_is_ahead_is_refused_and_nothing_changes(backend):
    state = lazily(start(11, 5, torch.float32), list(gradients(11, 5, 11, 5)))
    before, rows, grad = [t.clone() for t in state], torch.tensor([2, 7]), torch.ones(2, 5)
    state[3][7] = before[3][7] = 9
    with use_backend(backend):
        for message, call in {
            "adam_lazy_: row 7 is made up to step 9; wanted 5 or less for step 6": lambda: adam_lazy_(
                *state, rows, grad, **OPTIONS, step=6
            ),
            "adam_lazy_: row 2 is made up to step 5; wanted 4 or less for step 5": lambda: adam_lazy_(
                *state, rows, grad, **OPTIONS, step=5
            ),
            "adam_catch_up_: row 7 is made up to step 9; wanted 6 or less for step 6": lambda: adam_catch_up_(
                *state, rows.flip(0), **OPTIONS, step=6
            ),
            "adam_catch_up_: row 7 is made up to step 9; wanted 8 or less for step 8": lambda: adam_catch_up_(
                *state, **OPTIONS, step=8
            ),
        }.items():
            with pytest.raises(MmfastError, match=message):
                call()
            assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


@pytest.mark.parametrize(("message", "arguments", "options"), list(bad_arguments()))
def test_messages(message, arguments, options):
    with pytest.raises((MmfastError, RuntimeError), match=message):
        adam_lazy_(*arguments, **OPTIONS | {"step": 1} | options)
