"""Adam and Adagrad: row-sparse and dense gradients make the steps of torch's optimisers, whose state is the same."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException

from mmfast import optim
from mmfast.embeddings import RowTable
from mmfast.errors import MmfastError
from mmfast.optim import ADAGRAD_EPS, Adagrad, Adam


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((53, 7), (7, 5), (4,))]


def steps(optimizer, params, count, sparse, first=0):
    """Read a table at a few rows (sorted in even steps, repeated in odd ones) and a layer; one vector is unused."""
    table, weight, _ = params
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(0, 53, (11,), generator=generator)
        rows = rows if step % 2 else rows.unique()
        optimizer.zero_grad()
        (F.embedding(rows, table, sparse=sparse) @ weight).pow(2).mean().backward()
        assert table.grad.is_sparse == sparse
        optimizer.step()


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("sparse", [True, False])
def test_equals_torch_adam(sparse, weight_decay):
    ours, theirs = parameters(), parameters()
    steps(Adam(ours, 0.01, weight_decay=weight_decay), ours, 20, sparse)
    steps(torch.optim.Adam(theirs, 0.01, weight_decay=weight_decay, foreach=False), theirs, 20, sparse=False)
    assert_close(ours, theirs)
    assert torch.equal(ours[2], parameters()[2])  # no gradient, no step, no decay


@pytest.mark.parametrize("sparse", [True, False])
def test_equals_torch_adagrad(sparse):
    ours, theirs = parameters(), parameters()
    steps(Adagrad(ours, 0.05), ours, 20, sparse)
    steps(torch.optim.Adagrad(theirs, 0.05, eps=ADAGRAD_EPS), theirs, 20, sparse=False)
    assert_close(ours, theirs)
    assert not torch.equal(ours[0], parameters()[0])


KINDS = {"adam": (Adam, torch.optim.Adam), "adagrad": (Adagrad, torch.optim.Adagrad)}


@pytest.mark.parametrize(("kind", "torchs"), KINDS.values(), ids=KINDS)
def test_state_travels_to_torch_and_back(kind, torchs):
    ours, theirs, straight = parameters(), parameters(), parameters()
    optimizer = kind(ours, 0.01)
    steps(optimizer, ours, 3, sparse=True)
    with torch.no_grad():
        for a, b in zip(theirs, ours, strict=True):
            a.copy_(b)
    other = torchs(theirs, 0.01)
    other.load_state_dict(optimizer.state_dict())
    steps(other, theirs, 3, sparse=False, first=3)
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)
    optimizer = kind(ours, 0.01)
    optimizer.load_state_dict(other.state_dict())
    steps(optimizer, ours, 3, sparse=True, first=6)
    steps(kind(straight, 0.01), straight, 9, sparse=True)
    assert_close(ours, straight)


def test_gradients_remain_after_the_step_and_the_closure_is_called():
    params = parameters()
    optimizer = Adam(params, 0.01)

    def closure():
        optimizer.zero_grad()
        loss = F.embedding(torch.tensor([1, 2]), params[0], sparse=True).sum()
        loss.backward()
        return loss

    before = F.embedding(torch.tensor([1, 2]), params[0]).sum()
    assert torch.equal(optimizer.step(closure), before)
    assert params[0].grad.is_sparse
    assert int(optimizer.state[params[0]]["step"]) == 1


def test_learning_rate_schedules_reach_sparse_rows():
    params = parameters()
    optimizer = Adam(params[:1], 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: float(epoch == 0))
    F.embedding(torch.tensor([1]), params[0], sparse=True).sum().backward()
    optimizer.step()
    schedule.step()
    stopped = params[0].clone()
    optimizer.step()
    assert torch.equal(params[0], stopped)


def sparse_rows(rows, values, **options):
    return torch.sparse_coo_tensor(rows[None], values, (53, 7), check_invariants=False, **options)


@pytest.mark.parametrize("lazy_numbers", [0, 1 << 23])
def test_a_coalesced_gradient_is_stepped_without_reading_the_device(monkeypatch, lazy_numbers):
    # A fake tensor holds no numbers: whoever reads one is told so.
    monkeypatch.setattr(optim, "LAZY_NUMBERS", lazy_numbers)
    with torch._subclasses.FakeTensorMode():
        table = RowTable(torch.empty(53, 7))
        optimizer = Adam(table.parameters(), 0.01, tables=[table])
        rows, values = torch.empty(11, dtype=torch.int64), torch.empty(11, 7)
        for _ in range(3):
            table.read(rows)
            table.parameter.grad = sparse_rows(rows, values, is_coalesced=True)
            optimizer.step()
        assert (table.waiting is None) == (lazy_numbers > 0)
        table.parameter.grad = sparse_rows(rows, values)
        with pytest.raises(DataDependentOutputException):
            optimizer.step()


def test_options_that_row_sparse_gradients_cannot_have():
    params = parameters()
    optimizer = Adam(params, 0.01)
    optimizer.param_groups[0]["amsgrad"] = True
    F.embedding(torch.tensor([1]), params[0], sparse=True).sum().backward()
    with pytest.raises(MmfastError, match="needs amsgrad=False"):
        optimizer.step()
