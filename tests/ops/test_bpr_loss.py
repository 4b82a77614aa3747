"""bpr_loss: the four formulas against float64, their gradients, extreme margins, threads, messages."""

import math

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.bpr_loss import KINDS, bpr_loss
from tests.accuracy import assert_at_most_twice


def batch(batch_size=700, width=67, num_users=50, num_items=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(num_users, width, dtype=torch.float64, generator=generator) / width**0.25
    items = torch.randn(num_items, width, dtype=torch.float64, generator=generator) / width**0.25
    index = [torch.randint(0, n, (batch_size,), generator=generator) for n in (num_users, num_items, num_items)]
    return users, items, *index


def loss_and_gradients(users, items, *rest):
    users, items = users.clone().requires_grad_(), items.clone().requires_grad_()
    loss = bpr_loss(users, items, *rest)
    return [loss, *torch.autograd.grad(3 * loss, (users, items))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch_size", "width"), [(1, 1), (2, 8), (255, 9), (257, 64), (700, 67), (2048, 128)])
def test_error_is_at_most_twice_that_of_pytorch(kind, batch_size, width):
    users, items, *index = batch(batch_size, width)
    with use_backend("reference"):
        exact = loss_and_gradients(users, items, *index, kind)
        torch_32 = loss_and_gradients(users.float(), items.float(), *index, kind)
    for ours, want in zip(loss_and_gradients(users, items, *index, kind), exact, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-11, atol=1e-13)
    ours_32 = loss_and_gradients(users.float(), items.float(), *index, kind)
    for ours, theirs, want in zip(ours_32, torch_32, exact, strict=True):
        assert_at_most_twice(ours, theirs, want)


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("logsigmoid", lambda m: math.log1p(math.exp(-m))),
        ("eps", lambda m: -math.log(1e-10 + 1 / (1 + math.exp(-m)))),
        ("raw", lambda m: -math.log(1 / (1 + math.exp(-m)))),
        ("log2", lambda m: -math.log2(1 / (1 + math.exp(-m)))),
    ],
)
def test_equals_the_formula_of_the_paper(kind, formula):
    users = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    items = torch.tensor([[3.0, 1.0], [-1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    loss = bpr_loss(users, items, torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([1, 0]), kind)
    assert loss.item() == pytest.approx((formula(5.0 - 0.0) + formula(-2.0 - 0.5)) / 2, rel=1e-14)


@pytest.mark.parametrize("margin", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_margins_have_the_formula_s_value_and_a_finite_gradient(kind, margin):
    users, items = torch.tensor([[1.0]]), torch.tensor([[margin], [0.0]])
    index = torch.tensor([0]), torch.tensor([0]), torch.tensor([1])
    loss, grad_users, grad_items = loss_and_gradients(users, items, *index, kind)
    with use_backend("reference"):
        want = bpr_loss(users, items, *index, kind)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-37)
    assert grad_users.isfinite().all() and grad_items.isfinite().all()
    if kind in ("raw", "log2") and margin <= -100:
        assert loss.isinf()
        assert grad_items[0].item() == pytest.approx(-3 if kind == "raw" else -3 / math.log(2))


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    users, items, *index = batch(13, 5, 4, 6)
    assert torch.autograd.gradcheck(
        lambda u, i: bpr_loss(u, i, *index, kind), (users.requires_grad_(), items.requires_grad_())
    )


def test_one_table_for_users_and_items():
    users, _, *index = batch(50, 9, 40)
    one = users.clone().requires_grad_()
    (grad,) = torch.autograd.grad(bpr_loss(one, one, *index), one)
    _, grad_users, grad_items = loss_and_gradients(users, users, *index)
    torch.testing.assert_close(grad, (grad_users + grad_items) / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    users, items, *index = batch()
    users, items = users.to(dtype), items.to(dtype)
    loss, *gradients = loss_and_gradients(users, items, *index)
    want, *want_gradients = loss_and_gradients(users.float(), items.float(), *index)
    assert loss.dtype == torch.float32 and torch.equal(loss, want)
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(gradients, want_gradients, strict=True))


def test_int32_and_strided_arguments():
    users, items, *index = batch()
    want = loss_and_gradients(users, items, *index)
    strided = [torch.stack([i, i], 1)[:, 0].int() for i in index]
    strided[0] = torch.stack([index[0]] * 2, 1)[:, 0]
    got = loss_and_gradients(users.T.contiguous().T, items.T.contiguous().T, *strided)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("width", [1, 16, 40, 64])
def test_same_bits_for_any_number_of_threads(width):
    users, items, *index = batch(3001, width)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(loss_and_gradients(users.float(), items.float(), *index))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_opcheck_and_one_compiled_graph():
    users, items, *index = batch(13, 5, 4, 6)
    users.requires_grad_()
    torch.library.opcheck(torch.ops.mmfast.bpr_loss.default, (users, items, *index, "eps"))

    def loss(users):
        return torch.ops.mmfast.bpr_loss(users, items, *index, "raw")[0]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(users), users), torch.autograd.grad(loss(users), users))


def test_second_derivatives_are_refused():
    users, items, *index = batch(13, 5, 4, 6)
    users.requires_grad_()
    (grad,) = torch.autograd.grad(bpr_loss(users, items, *index), users, create_graph=True)
    with pytest.raises(MmfastError, match="second derivatives are not provided"):
        grad.sum().backward()


def bad_arguments():
    users, items, *index = batch(13, 5, 4, 6)
    yield "the batch is empty", (users, items, *(i[:0] for i in index))
    yield "kind is 'hinge'; choose one of logsigmoid, eps, raw, log2", (users, items, *index, "hinge")
    yield "of one dtype and width", (users, items[:, :3], *index)
    yield "of one dtype and width", (users.float(), items, *index)
    yield (
        r"pos_index is torch.int64 \[12\]; wanted int64 or int32 \[13\]",
        (users, items, index[0], index[1][1:], index[2]),
    )
    yield "user_index is torch.float32", (users, items, index[0].float(), *index[1:])
    yield "users is Long; wanted Float or Double", (users.long(), items.long(), *index)
    yield (
        "neg_index holds ids from . to 6; wanted 0 to 5",
        (users, items, *index[:2], index[2].clone().fill_(6).index_fill_(0, torch.tensor([0]), 0)),
    )


@pytest.mark.parametrize(("message", "arguments"), list(bad_arguments()))
def test_messages(message, arguments):
    with pytest.raises(MmfastError, match=message):
        bpr_loss(*arguments)
