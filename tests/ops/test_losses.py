"""What all losses share: gradcheck, opcheck, one compiled graph, autocast, threads, strides, no second derivative."""

from __future__ import annotations

import pytest
import torch

from mmfast import ops
from mmfast.errors import MmfastError
from tests.accuracy import ragged, value_and_gradients
from tests.kernels import EMULATED


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def contrastive_cases(size, width, generator):
    index = torch.randint(0, size, (size,), generator=generator)
    x, y, content = random(size, width), random(size, width, seed=1), random(2, size, width, seed=2)
    far = torch.arange(size) + size
    return {
        "info_nce": (
            lambda x, y: ops.info_nce(x, y, 0.2, index, negatives="all", intra=True),
            (x, y),
            lambda op, x, y: op(x, torch.cat([y, x]), index, far, 0.2, True, True),
        ),
        "transfer_kl": (  # items of zeros: a target that the users do not move, because it has no gradient
            lambda u, c: ops.transfer_kl(u, 0 * y, c, 0.7),
            (x, content),
            lambda op, u, c: op(u, y, c, 0.7),
        ),
        "cosine_loss": (ops.cosine_loss, (x, y), lambda op, x, y: op(x, y)),
        "moments": (ops.moments, (x,), lambda op, x: op(x)),
    }


def target_cases(size, width, generator):
    image, text, attention = random(size, width), random(size, width, seed=1), random(2 * width)
    (aux, ptr), (words, text_ptr) = ragged(size, width, generator), ragged(size, width, generator)
    return {
        "target_contrast": (
            lambda v, a: ops.target_contrast(v, a, ptr, text, words, text_ptr),
            (image, aux),
            lambda op, v, a: op(v, a, ptr, text, words, text_ptr, 1.0, False),
        ),
        "target_pool": (
            lambda t, a, w: ops.target_pool(t, a, ptr, w),
            (image, aux, attention),
            lambda op, t, a, w: op(t, a, ptr, w),
        ),
    }


def cases(size, width):
    """Return {name: (function of the differentiable tensors, those tensors, its call of the native op)}."""
    generator = torch.Generator().manual_seed(1)
    index = [torch.randint(0, size, (size,), generator=generator) for _ in range(3)]
    student, teacher, universal, target = (random(2, size, seed=s) for s in range(4))
    margin = random(size)
    return {
        "ckd_loss": (
            lambda s, u: ops.ckd_loss(margin, s, teacher, u, target, 2 * teacher)[0],
            (student, universal),
            lambda op, s, u: op(margin, s, 2 * teacher, teacher, u, target, 5.0, 0.1, 0.0, "hinge", "paper"),
        ),
        "triple_margins": (
            lambda u, i: ops.triple_margins(u, i, *index),
            (random(size, width), random(size, width, seed=1)),
            lambda op, u, i: op(u, i, *index),
        ),
        **contrastive_cases(size, width, generator),
        **target_cases(size, width, generator),
    }


NAMES = list(cases(3, 2))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    fn, tensors, _ = cases(7, 3)[name]
    assert torch.autograd.gradcheck(fn, [t.clone().requires_grad_() for t in tensors])


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    _, tensors, call = cases(7, 3)[name]
    leaves = [t.clone().requires_grad_() for t in tensors]
    given = []
    call(lambda *arguments: given.extend(arguments), *leaves)
    given = [t.detach().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t for t in given]
    torch.library.opcheck(getattr(torch.ops.mmfast, name).default, tuple(given))


def test_opcheck_of_shared_gradients():
    x, pair = random(7, 3), random(2)
    torch.library.opcheck(torch.ops.mmfast.slope_backward.default, (x[:, 0], x))
    torch.library.opcheck(torch.ops.mmfast.moments_backward.default, (pair, torch.ops.mmfast.moments(x), x))


@pytest.mark.parametrize("name", NAMES)
def test_one_compiled_graph(name):
    fn, tensors, _ = cases(13, 9)[name]
    compiled = torch.compile(fn, fullgraph=True, backend="aot_eager")
    for ours, want in zip(value_and_gradients(compiled, *tensors), value_and_gradients(fn, *tensors), strict=True):
        torch.testing.assert_close(ours, want)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    index, ptr, x, y = torch.tensor([0, 2, 1]), torch.tensor([0, 1, 1, 3]), random(3, 5), random(3, 5, seed=1)
    two = torch.stack([x, y])
    fn, given = {
        "info_nce": (ops.info_nce, (x, y, 0.2)),
        "transfer_kl": (ops.transfer_kl, (x, y, two)),
        "ckd_loss": (lambda *a: ops.ckd_loss(*a)[0], (x[0], two[:, 0], two[:, 1], two[:, 2], two[:, 0])),
        "target_contrast": (ops.target_contrast, (x, x, ptr, y, y, ptr)),
        "target_pool": (ops.target_pool, (x, y, ptr, two[0, :2].flatten())),
        "cosine_loss": (ops.cosine_loss, (x, y)),
        "moments": (ops.moments, (x,)),
        "triple_margins": (ops.triple_margins, (x, y, index, index, index.flip(0))),
    }[name]

    def cast(*types):
        for t in given:
            for type_ in types:
                t = t.to(type_) if isinstance(t, torch.Tensor) and t.is_floating_point() else t
            yield t

    got = fn(*cast(dtype))
    assert got.dtype == torch.float32 and torch.equal(got, fn(*cast(dtype, torch.float32)))


def test_autocast_leaves_the_products_in_float32():
    x, y, z = (random(13, 9, seed=s).float() for s in range(3))
    for loss in (lambda x, y: ops.info_nce(x, y, 0.2), lambda x, y: ops.transfer_kl(x, z, [y])):
        with torch.autocast("cpu", torch.bfloat16):
            inside = value_and_gradients(loss, x, y)
        outside = value_and_gradients(loss, x, y)
        assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(bool(EMULATED), reason="an emulated device's matrix products are the host's, on all its threads")
def test_same_bits_for_any_number_of_threads(name):
    fn, tensors, _ = cases(601, 5)[name]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(fn, *tensors))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_strided_arguments(name):
    fn, tensors, _ = cases(13, 9)[name]
    strided = [torch.stack([t, -t], -1)[..., 0] for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    got = value_and_gradients(lambda *t: fn(*(torch.stack([s, -s], -1)[..., 0] for s in t)), *tensors)
    for ours, want in zip(got, value_and_gradients(fn, *tensors), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_refused(name):
    fn, tensors, _ = cases(13, 9)[name]
    leaves = [t.clone().requires_grad_() for t in tensors]
    gradients = torch.autograd.grad(fn(*leaves).square().sum(), leaves, create_graph=True)
    with pytest.raises(MmfastError, match="second derivatives are not provided"):
        sum(g.sum() for g in gradients).backward()
