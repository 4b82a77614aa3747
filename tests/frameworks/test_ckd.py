"""CKD against Eq. 8-19 written out, its teachers, its resume, and what it does when something is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmfast.data.sampler import Sampler
from mmfast.errors import MmfastError
from mmfast.frameworks.ckd import CKD, constant
from mmfast.logs import read_log
from mmfast.run import Run
from mmfast.trainer import fit
from tests.frameworks.common import block_config, block_run
from tests.models.test_behaviour import FrozenFeatures64, block_dataset, build
from tests.test_resume import Killed, assert_same_run, killed_in_step

TWO = {"image": 6, "text": 5}
THREE = {"image": 6, "sound": 3, "text": 5}


def student(features: dict[str, int], **options) -> tuple[CKD, object]:
    """Return CKD in float64 round VBPR, its teachers tables of random numbers, and a batch."""
    dataset = block_dataset(features)
    model = build("vbpr", dataset, fusion="channels").double()
    for modality in model.modalities:
        model.set_item_features(modality, FrozenFeatures64(dataset.features[modality]))
    framework = CKD(model, CKD.Config(universal_size=20, **options))
    generator = torch.Generator().manual_seed(3)
    shapes = (dataset.num_users, 4), (dataset.num_items, 4)
    framework.teachers = [
        tuple(torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes)
        for _ in model.modalities
    ]
    framework.active_users = torch.arange(dataset.num_users)
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    return framework, next(Sampler(dataset, 64, seed=0).epoch(0))


def literal_margins(framework: CKD):
    """Return margin(triple, modalities shown) by Eq. 8 and 10: p and e of what is not shown replaced by their means."""
    model = framework.model
    users = {name: table.weight.detach().numpy() for name, table in model.users.items()}
    items = model.items.weight.detach().numpy()
    content = {m: model.item_features(m).features.numpy().astype(np.float64) for m in model.modalities}
    layers = {m: [p.detach().numpy() for p in model.projections[m].parameters()] for m in model.modalities}

    def f(u, i, shown):
        score = users["id"][u] @ items[i]
        for m, (weight, bias) in layers.items():
            p, e = (users[m][u], content[m][i]) if m in shown else (users[m].mean(0), content[m].mean(0))
            score += p @ (weight @ e + bias)
        return score

    return lambda triple, shown: f(triple[0], triple[1], shown) - f(triple[0], triple[2], shown)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def literal(framework: CKD, triples: np.ndarray, size: int) -> float:
    """Return L - L_BPR of Eq. 19, mean for sum, in NumPy."""
    config, margin = framework.config, literal_margins(framework)
    everything = set(framework.model.modalities)
    train, universal = triples[:, :size].T, triples[:, size:].T
    losses, gamma, below, c = [], [], [], []
    for m, tables in zip(framework.model.modalities, framework.teachers, strict=True):
        t_users, t_items = (table.numpy() for table in tables)
        dt = np.array([t_users[u] @ (t_items[i] - t_items[j]) for u, i, j in train])
        ds = np.array([margin(triple, {m}) for triple in train])
        sd = np.maximum(dt - ds, 0)  # Eq. 11
        a = sigmoid(np.array([t_users[u] @ (t_items[j] - t_items[k]) for u, j, k in universal]) / config.temperature)
        b = sigmoid(np.array([margin(triple, {m}) for triple in universal]) / config.temperature)  # Eq. 13
        gd = -(a * np.log(b) + (1 - a) * np.log(1 - b)).mean()  # Eq. 12
        losses.append(config.generic_weight * gd + sd)  # Eq. 14, by triple
        delta = np.array([margin(t, everything) - margin(t, everything - {m}) for t in train])  # Eq. 15
        gamma.append(delta.mean())  # Eq. 16
        below.append(dt.mean())
        c.append(np.clip(delta / ds, 1e-8, 10))
    if config.weights == "paper":
        rho = np.clip(np.array(gamma) / np.maximum(below, 1e-8), 1e-8, 10)  # Eq. 17
        w = (1 - rho / rho.sum())[:, None]  # Eq. 18
    else:
        w = 2 * np.stack(c[::-1]) / (c[0] + c[1])
    return config.distillation_weight * (w * np.stack(losses)).sum(0).mean()


@pytest.mark.parametrize(
    ("features", "weights"), [(TWO, "paper"), (TWO, "code"), (THREE, "paper")], ids=["paper2", "code2", "paper3"]
)
def test_equations_8_to_19_literally(features, weights):
    framework, batch = student(features, weights=weights, distillation_weight=0.3)
    terms = framework.loss(batch)
    framework.steps = 0
    triples = torch.cat(
        [torch.stack([batch.users, batch.pos_items, batch.neg_items]), framework.universal_triples(24)], 1
    )
    assert terms["distillation"].item() == pytest.approx(literal(framework, triples.numpy(), batch.size), rel=1e-10)
    assert {"bpr", "reg", "distillation"} == set(terms)
    plain = framework.model.loss(batch)
    assert all(terms[name].item() == pytest.approx(value.item(), rel=1e-12) for name, value in plain.items())


def test_universal_triples_are_uniform_or_of_a_pool_and_repeat():
    framework, _ = student(TWO)
    first = framework.universal_triples(24)
    assert first.shape == (3, 20) and len(set(first[0].tolist())) == 20
    assert not torch.equal(framework.universal_triples(24), first)
    framework.steps = 0
    assert torch.equal(framework.universal_triples(24), first)
    pooled, _ = student(TWO, universal_items=3)
    seen = [pooled.universal_triples(24)[1:].unique() for _ in range(300)]
    assert max(map(len, seen)) <= 3
    counts = torch.cat(seen).bincount(minlength=24)
    assert counts.min() > 0 and counts.max() < 2 * counts.float().mean()
    bare, _ = student(TWO, generic_weight=0.0)
    assert bare.universal_triples(24).shape == (3, 1)


def test_ablations_change_the_loss_as_they_should():
    full, batch = student(TWO)
    value = full.loss(batch)["distillation"].item()
    for change in (
        {"generic_weight": 0.0},
        {"weights": "uniform"},
        {"specific": "square"},
        {"specific": "cross_entropy"},
    ):
        other, _ = student(TWO, **change)
        assert other.loss(batch)["distillation"].item() != pytest.approx(value, rel=1e-4)
    ones, uniform = (student(TWO, weights=kind)[0].loss(batch)["distillation"].item() for kind in ("ones", "uniform"))
    assert ones == pytest.approx(2 * uniform)


def test_teachers_are_trained_masked_kept_as_tables_and_may_be_loaded(tmp_path):
    dataset = block_dataset(TWO)
    run = block_run(tmp_path, "vbpr", "ckd", dataset, name="one", options={"fusion": "channels"})
    teachers = [run.folder / f"teacher-{m}" for m in ("image", "text")]
    for folder, other in zip(teachers, ("text", "image"), strict=True):
        assert Run.load(folder, dataset).model.masked == {other}
        assert "test" not in json.loads((folder / "metrics.json").read_text())
    measures = read_log(run.folder)[-1]["measures"]
    assert 0 < measures["weight_text"] < 1 and measures["weight_text"] + measures["weight_image"] == pytest.approx(1)
    given = {"name": "ckd", "teachers": {"image": str(teachers[0]), "text": str(teachers[1])}}
    again = block_run(tmp_path, "vbpr", given, dataset, name="two", options={"fusion": "channels"})
    assert again.metrics == run.metrics and not list(again.folder.glob("teacher-*"))


def test_teacher_tables_leave_the_masked_columns_out_and_score_alike(tmp_path):
    dataset = block_dataset(TWO)
    config = block_config(tmp_path, "vbpr", "ckd", options={"fusion": "channels"})
    framework = CKD(build("vbpr", dataset, fusion="channels"), config.framework[0])
    model = build("vbpr", dataset, fusion="channels")
    model.mask({"text"})
    train = lambda config, name, test: SimpleNamespace(model=model)  # noqa: E731
    users, items = framework.teacher("image", SimpleNamespace(config=config, dataset=dataset, train=train))
    assert users.shape[1] == items.shape[1] == 2 * 8
    whole = [table.detach() for table in model.embed()]
    scores, wanted = users @ items.t(), whole[0] @ whole[1].t()
    assert torch.allclose(scores - scores[:, :1], wanted - wanted[:, :1], atol=1e-6)
    assert not [name for name in framework.state_dict() if "teacher" in name]


@pytest.mark.parametrize("moment", [2, 9, 20, 33])
def test_a_run_killed_in_a_teacher_or_in_the_student_repeats_every_bit(tmp_path, moment):
    dataset = block_dataset(TWO)  # 6 steps an epoch, 12 of each teacher
    whole = block_run(tmp_path, "mgcn", "ckd", dataset, name="whole", train={"epochs": 2})
    config = block_config(tmp_path, "mgcn", "ckd", name="killed", train={"epochs": 2})
    with pytest.MonkeyPatch.context() as patch:
        killed_in_step(patch, moment)
        with pytest.raises(Killed):
            fit(config, dataset, progress=False)
    resumed = fit(None, dataset, resume=tmp_path / "runs" / "killed", progress=False)
    assert_same_run(whole.folder, resumed.folder)


def test_a_weak_teacher_is_told_and_weighs_little(tmp_path):
    framework, batch = student(TWO)
    users, items = framework.teachers[0]
    margins = (users[batch.users] * (items[batch.pos_items] - items[batch.neg_items])).sum(1)
    framework.teachers[0] = (-users if margins.mean() > 0 else users), items
    said = []
    framework.say, framework.warned = said.append, set()
    framework.loss(batch)
    measures = framework.measures()
    framework.measures()
    assert measures["weak_text"] == 1.0 and np.isfinite(list(measures.values())).all()
    assert (
        len([line for line in said if "the 'text' teacher ranks 100% of the batches no better than at random" in line])
        == 1
    )


def test_a_constant_modality_is_told_and_trains(tmp_path, capsys):
    dataset = block_dataset(TWO)
    flat = dataset.with_features({**dataset.features, "image": np.ones((dataset.num_items, 6), np.float32)})
    sources = build("vbpr", flat).sources
    assert constant(sources["image"], torch.device("cpu")) and not constant(sources["text"], torch.device("cpu"))
    run = fit(block_config(tmp_path, "vbpr", "ckd"), flat)
    assert "every item has the same 'image' features" in capsys.readouterr().err
    assert np.isfinite(read_log(run.folder)[-1]["loss"]["distillation"])


def test_wrong_teachers_are_refused(tmp_path):
    dataset = block_dataset(TWO)
    plain = block_run(tmp_path, "vbpr", [], dataset, name="plain")
    other = dataset.with_features({**dataset.features, "image": dataset.features["image"] + 1})
    elsewhere = block_run(tmp_path, "vbpr", {"name": "masked", "hide": ["text"]}, other, name="elsewhere")

    def given(folder):
        return {"name": "ckd", "teachers": {"image": str(folder)}}

    def refused(folder, message):
        with pytest.raises(MmfastError, match=message):
            block_run(tmp_path, "vbpr", given(folder), dataset)

    refused(plain.folder, "was trained with nothing hidden; a teacher of 'image' has text hidden: train it with frame")
    refused(
        elsewhere.folder, r"trained on 'blocks' of 40 users x 24 items \(fingerprint .*this run has 'blocks' of 40 x"
    )
    refused(tmp_path / "nowhere", "is not a run folder")
    with pytest.raises(MmfastError, match="no modality is called 'smell'; there are text, image"):
        block_run(tmp_path, "vbpr", {"name": "ckd", "teachers": {"smell": "x"}}, dataset)
    with pytest.raises(MmfastError, match=r"weights=code is defined for 2 modalities, and there are 3"):
        block_run(tmp_path, "vbpr", {"name": "ckd", "weights": "code"})


def test_a_distillation_that_is_not_finite_is_named_with_its_batch(tmp_path, monkeypatch):
    dataset, loss = block_dataset(TWO), CKD.loss
    block_run(tmp_path, "vbpr", "ckd", dataset, name="teachers")
    teachers = {m: str(tmp_path / "runs" / "teachers" / f"teacher-{m}") for m in TWO}

    def broken(self, batch):
        if self.steps == 2:
            users, items = self.teachers[0]
            self.teachers[0] = users * torch.nan, items
        return loss(self, batch)

    monkeypatch.setattr(CKD, "loss", broken)
    with pytest.raises(MmfastError, match=r"the loss term 'distillation' became nan at epoch 1, batch 3"):
        block_run(tmp_path, "vbpr", {"name": "ckd", "teachers": teachers}, dataset)


def test_users_without_training_rows_are_in_no_universal_triple(tmp_path):
    dataset = block_dataset(TWO)
    keep = dataset.train.users != 7
    pairs = type(dataset.train).from_pairs(dataset.train.users[keep], dataset.train.items[keep])
    fewer = replace(dataset, train=pairs)
    model = build("vbpr", fewer)
    framework = CKD(model, CKD.Config(universal_size=100))
    train = lambda config, name, test: SimpleNamespace(model=build("vbpr", fewer))  # noqa: E731
    config = block_config(tmp_path, "vbpr", "ckd")
    framework.prepare(SimpleNamespace(config=config, dataset=fewer, train=train, say=print, device=torch.device("cpu")))
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    users = framework.universal_triples(24)[0]  # 100 of 39 users: drawn again where there are not enough
    assert 7 not in users and len(users) == 100
