"""Tables whose rows wait: every way to read one gives dense Adam's numbers, and runs repeat bit by bit."""

import copy

import numpy as np
import pytest
import torch

from mmfast import optim, training
from mmfast.data.dataset import Dataset
from mmfast.embeddings import EmbeddingTable, row_tables
from mmfast.models.features import TrainableFeatures
from mmfast.optim import Adam
from mmfast.trainer import fit
from tests.test_resume import Killed, assert_same_run, killed_in_step
from tests.toys import toy_config, toy_dataset

ROWS = 53


@pytest.fixture(autouse=True)
def every_table_is_lazy(monkeypatch):
    monkeypatch.setattr(optim, "LAZY_NUMBERS", 0)


def new_table():
    return EmbeddingTable([ROWS], 7, "xavier_normal", torch.Generator().manual_seed(1))


def train(table, optimizer, steps, first=0, ways=("rows",), lr=lambda step: 0.01):
    """Read 5 rows a step (or all, in the steps of that way) and step on a loss that depends on the values read."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, ROWS, (5,), generator=generator)
        target = torch.randn(5, 7, generator=generator)
        optimizer.param_groups[0]["lr"] = lr(step)
        optimizer.zero_grad()
        rows = table(ids) if ways[step % len(ways)] == "rows" else table.all()[ids]
        (rows - target).pow(2).sum().backward()
        optimizer.step()


def lazy(**options):
    table = new_table()
    return table, Adam(table.parameters(), 0.01, tables=row_tables(table), **options)


def dense(steps, **options):
    """The same steps with a dense gradient and torch's own Adam in float64."""
    table = new_table().double()
    train(table, torch.optim.Adam(table.parameters(), 0.01), steps, ways=("all",), **options)
    return table.weight.detach()


def assert_current(got, want):
    torch.testing.assert_close(got.detach().double(), want, rtol=1e-5, atol=1e-6)


READERS = {
    "all": lambda table: table.all(),
    "weight": lambda table: table.weight,
    "ids": lambda table: table(torch.arange(ROWS).view(1, -1))[0],
    "state dict": lambda table: table.state_dict()["weight"],
    "copy": lambda table: copy.deepcopy(table).parameter,
}


@pytest.mark.parametrize("way", READERS)
def test_every_reading_is_current(way):
    table, optimizer = lazy()
    train(table, optimizer, 40)
    want = dense(steps=40)
    assert (table.parameter.detach() - want).abs().max() > 1e-3  # rows do wait
    assert_current(READERS[way](table), want)
    train(table, optimizer, 20, first=40)
    assert_current(READERS[way](table), dense(steps=60))


@pytest.mark.parametrize("ways", [("rows", "rows", "rows", "all"), ("all", "rows")])
def test_dense_gradients_in_between(ways):
    table, optimizer = lazy()
    train(table, optimizer, 50, ways=ways)
    assert_current(table.all(), dense(steps=50))


def test_a_learning_rate_that_changes_holds_from_then_on():
    def decayed(step):
        return 0.01 * 0.5 ** (step // 15)

    table, optimizer = lazy()
    train(table, optimizer, 50, lr=decayed)
    assert_current(table.all(), dense(steps=50, lr=decayed))


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"betas": (0.95, 0.9)}])
def test_weight_decay_and_betas_that_let_no_row_wait(options):
    table, optimizer = lazy(**options)
    train(table, optimizer, 5)
    before = table.parameter.clone()
    assert table.waiting is None and torch.equal(table.all(), before)


def test_the_state_is_that_of_torch_adam_and_comes_back():
    table, optimizer = lazy()
    train(table, optimizer, 25)
    other = new_table()
    other.load_state_dict(table.state_dict())
    continued = torch.optim.Adam(other.parameters(), 0.01)
    continued.load_state_dict(optimizer.state_dict())
    train(other, continued, 10, first=25, ways=("all",))
    table.load_state_dict(other.state_dict())
    optimizer.load_state_dict(continued.state_dict())
    train(table, optimizer, 15, first=35)
    optimizer.flush()
    assert_current(table.parameter, dense(steps=50))


def test_loaded_values_are_not_moved_by_steps_missed_before():
    table, optimizer = lazy()
    train(table, optimizer, 10)
    zeros = {"weight": torch.zeros(ROWS, 7)}
    table.load_state_dict(zeros)
    optimizer.flush()
    assert torch.equal(table.all(), zeros["weight"])


def test_a_copied_optimiser_goes_on_by_itself():
    pair = lazy()
    train(*pair, 20)
    twin = copy.deepcopy(pair)
    train(*pair, 10, first=20)
    train(*twin, 10, first=20)
    assert_current(twin[0].all(), dense(steps=30))
    assert_current(pair[0].all(), dense(steps=30))


def test_trainable_features_are_projected_by_current_rows():
    values = torch.randn(31, 6, generator=torch.Generator().manual_seed(0))
    source, weight = TrainableFeatures(values.numpy()), torch.randn(3, 6)
    optimizer = Adam(source.parameters(), 0.01, tables=row_tables(source))
    plain = torch.nn.Parameter(values.clone())
    reference = torch.optim.Adam([plain], 0.01)
    for step in range(30):
        ids = torch.randperm(31, generator=torch.Generator().manual_seed(step))[:4].sort()[0]
        for table, adam, rows in ((source, optimizer, source.project), (plain, reference, None)):
            adam.zero_grad()
            content = rows(ids, weight) if rows else plain[ids] @ weight.t()
            content.pow(2).sum().backward()
            adam.step()
            assert table is plain or source.waiting is not None
    torch.testing.assert_close(source.rows(torch.arange(31)), plain, rtol=1e-5, atol=1e-6)


def toy_with_features():
    toy = toy_dataset()
    features = {"image": np.random.default_rng(0).standard_normal((toy.num_items, 9)).astype(np.float32)}
    parts = {part: toy.part(part) for part in ("train", "valid", "test")}
    tables = {"user_id_table": toy.user_id_table, "item_id_table": toy.item_id_table}
    return Dataset(toy.name, toy.num_users, toy.num_items, **parts, **tables, features=features)


@pytest.mark.parametrize("model", ["bpr", "vbpr", "freedom"])
def test_runs_equal_eager_runs_and_resume_bit_by_bit(tmp_path, monkeypatch, model):
    dataset = toy_with_features()

    def config(name, **changes):
        options = {"epochs": 4, "lr_decay": [0.96, 50], "checkpoint_every": 2, **changes}
        return toy_config(tmp_path, name=name, model={"name": model}, train=options)

    whole = fit(config("whole"), dataset, progress=False)
    with monkeypatch.context() as patch:
        killed_in_step(patch, 3 * training.build_sampler(whole.config, dataset, True).steps - 1)
        with pytest.raises(Killed):
            fit(config("killed"), dataset, progress=False)
    assert_same_run(whole.folder, fit(None, dataset, resume=tmp_path / "runs/killed", progress=False).folder)
    seldom = fit(config("seldom", checkpoint_every=4, checkpoint_seconds=10**6), dataset, progress=False)
    assert seldom.metrics == whole.metrics
    monkeypatch.setattr(optim, "LAZY_NUMBERS", 1 << 40)
    eager = fit(config("eager"), dataset, progress=False)
    wanted = dict(eager.model.named_parameters())
    for name, ours in whole.model.named_parameters():
        # A bias adds the same to both items of a pair: its gradient is rounding, which Adam makes steps of.
        torch.testing.assert_close(ours, wanted[name], rtol=1e-4, atol=1e-3 if name.endswith("bias") else 1e-5)
