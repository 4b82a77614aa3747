"""Gradient Blending against its formulas written out; its copies leave the model alone; it resumes."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from mmfast.frameworks.gradient_blending import FILE, GradientBlending, blend
from mmfast.logs import read_log
from mmfast.trainer import fit
from tests.frameworks.common import block_config, block_run
from tests.models.test_behaviour import block_dataset, build
from tests.test_resume import Killed, assert_same_run, killed_in_step


def literal(before, after):
    """Return g_k = dG_k / dO_k^2 / Z for (train, valid) losses, the bounds as the docstring says."""
    raw = []
    for (train0, valid0), (train1, valid1) in zip(before, after, strict=True):
        gain = max(valid0 - valid1, 1e-8)
        overfitting = max(abs((valid1 - train1) - (valid0 - train0)), 1e-4)
        raw.append(gain / overfitting**2)
    weights = np.array(raw) / sum(raw)
    top = weights.argmax()
    if weights[top] > 0.9:
        rest = np.delete(weights, top)
        weights = np.insert(0.1 * rest / rest.sum(), top, 0.9)
    return weights


@pytest.mark.parametrize("seed", range(5))
def test_weights_literally(seed):
    before, after = torch.rand(2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert np.allclose(blend(before, after).numpy(), literal(before.tolist(), after.tolist()), rtol=1e-12)


def test_weights_by_hand_and_at_the_bounds():
    start = torch.full((2, 2), 0.7, dtype=torch.float64)
    # Head 1 gains 0.2 and overfits by 0.1, head 2 gains 0.1 and overfits by 0.1: 20 to 10.
    after = torch.tensor([[0.4, 0.5], [0.5, 0.6]], dtype=torch.float64)
    assert blend(start, after).tolist() == pytest.approx([float(Fraction(2, 3)), float(Fraction(1, 3))])
    worse = torch.tensor([[0.5, 0.6], [0.5, 0.9]], dtype=torch.float64)  # the second loses on validation
    assert blend(start, worse).tolist() == pytest.approx([0.9, 0.1])
    still = torch.tensor([[0.6, 0.6], [0.6, 0.6]], dtype=torch.float64)  # no overfitting at all: even weights
    assert blend(start, still).tolist() == pytest.approx([0.5, 0.5])


def test_the_loss_is_the_weighted_sum_of_heads():
    dataset = block_dataset({"image": 6, "text": 5})
    model = build("vbpr", dataset, fusion="channels")
    framework = GradientBlending(model)
    framework.weights.copy_(torch.tensor([0.2, 0.3, 0.5]))
    from mmfast.data.sampler import Sampler

    batch = next(Sampler(dataset, 64, seed=0).epoch(0))
    terms, plain = framework.loss(batch), model.loss(batch)
    assert terms["bpr"].item() == pytest.approx(0.5 * plain["bpr"].item()) and terms["reg"].equal(plain["reg"])
    for weight, shown, hidden in ((0.2, "text", "image"), (0.3, "image", "text")):
        users, items = (table.double() for table in model.embed(hide={hidden}))
        margin = (users[batch.users] * (items[batch.pos_items] - items[batch.neg_items])).sum(1)
        wanted = weight * torch.log(1 + torch.exp(-margin)).mean()
        assert terms[f"head_{shown}"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_online_starts_uniform_and_estimates_without_touching_the_model(tmp_path, monkeypatch):
    states, estimate = [], GradientBlending.estimate

    def watched(self, epoch, epochs):
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        weights = estimate(self, epoch, epochs)
        after = self.model.state_dict()
        states.append((epoch, epochs, all(torch.equal(before[name], after[name]) for name in before)))
        return weights

    monkeypatch.setattr(GradientBlending, "estimate", watched)
    dataset = block_dataset({"image": 6, "text": 5})
    run = block_run(tmp_path, "vbpr", {"name": "gradient_blending", "super_epoch": 2}, dataset, train={"epochs": 5})
    assert states == [(2, 2, True), (4, 2, True)]
    weights = [row["measures"] for row in read_log(run.folder)]
    assert weights[0] == weights[1] == {"weight_text": weights[0]["weight_all"]} | weights[0]
    assert weights[1]["weight_text"] == pytest.approx(1 / 3) and weights[2] == weights[3] != weights[1]
    assert all(sum(row.values()) == pytest.approx(1) for row in weights)


def test_offline_estimates_once(tmp_path):
    framework = {"name": "gradient_blending", "mode": "offline", "offline_epochs": 1}
    run = block_run(tmp_path, "vbpr", framework, train={"epochs": 2})
    weights = json.loads((run.folder / FILE).read_text())
    assert len(weights) == 4 and sum(weights) == pytest.approx(1)
    rows = [list(row["measures"].values()) for row in read_log(run.folder)]
    assert rows[0] == rows[1] == pytest.approx(weights)


@pytest.mark.parametrize(
    "options", [{"super_epoch": 2}, {"mode": "offline", "offline_epochs": 1}], ids=["online", "offline"]
)
def test_a_killed_run_repeats_every_bit(tmp_path, options):
    dataset, framework = block_dataset({"image": 6, "text": 5}), {"name": "gradient_blending", **options}
    whole = block_run(tmp_path, "vbpr", framework, dataset, name="whole", train={"epochs": 4})
    config = block_config(tmp_path, "vbpr", framework, name="killed", train={"epochs": 4})
    with pytest.MonkeyPatch.context() as patch:
        killed_in_step(patch, 18)  # in the last epoch, of six steps
        with pytest.raises(Killed):
            fit(config, dataset, progress=False)
    resumed = fit(None, dataset, resume=tmp_path / "runs" / "killed", progress=False)
    assert_same_run(whole.folder, resumed.folder)
