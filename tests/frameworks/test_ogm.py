"""OGM against its formulas written out, which gradients it scales, and GE's noise."""

from __future__ import annotations

import math

import pytest
import torch

from mmfast.data.sampler import Sampler
from mmfast.frameworks.ogm import OGM, gradient_scales, modulate_
from mmfast.trainer import fit
from tests.frameworks.common import MULTIMODAL, block_config, block_run
from tests.models.test_behaviour import block_dataset, build, train
from tests.test_resume import Killed, assert_same_run, killed_in_step


@pytest.mark.parametrize("count", [2, 3])
def test_scales_literally(count):
    shares = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count)) + 0.1
    for number, scale in enumerate(gradient_scales(shares, 0.3).tolist()):
        others = [float(s) for other, s in enumerate(shares) if other != number]
        ratio = float(shares[number]) / (sum(others) / len(others))
        assert scale == pytest.approx(1 - math.tanh(0.3 * ratio) if ratio > 1 else 1.0, rel=1e-12)


def gradients(framework, batch):
    framework.model.zero_grad()
    terms = framework.loss(batch)
    sum(terms.values()).backward()
    framework.adjust_gradients()
    return {name: p.grad.to_dense().clone() for name, p in framework.model.named_parameters() if p.grad is not None}


def ready(name: str, features=None, **options):
    dataset = block_dataset(features)
    model = build(name, dataset, **({"fusion": "channels"} if name == "vbpr" else {}))
    train(model, dataset, 2)
    framework = OGM(model, OGM.Config(**options))
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    return framework, next(Sampler(dataset, 64, seed=0).epoch(0))


def test_the_share_of_late_fusion_is_of_the_modality_s_own_part():
    framework, batch = ready("vbpr", {"image": 6, "text": 5}, alpha=0.5)
    framework.loss(batch)
    model, shares = framework.model, []
    for m in model.modalities:
        users, layer = model.users[m].weight, model.projections[m]
        items = layer(model.item_features(m).all())
        margin = (users[batch.users] * (items[batch.pos_items] - items[batch.neg_items])).sum(1)
        shares.append(torch.sigmoid(margin).mean())
    assert torch.allclose(framework.scales, gradient_scales(torch.stack(shares), 0.5), atol=1e-6)


def test_the_share_of_early_fusion_is_of_the_modality_alone():
    framework, batch = ready("mgcn", alpha=0.5)
    framework.loss(batch)
    shares = []
    for m in framework.model.modalities:
        users, items = framework.model.embed(hide=set(framework.model.modalities) - {m})
        margin = (users[batch.users] * (items[batch.pos_items] - items[batch.neg_items])).sum(1)
        shares.append(torch.sigmoid(margin).mean())
    assert torch.allclose(framework.scales, gradient_scales(torch.stack(shares), 0.5), atol=1e-5)


@pytest.mark.parametrize("name", ["vbpr", "mgcn"])
def test_only_gradients_of_the_modalities_are_scaled(name):
    framework, batch = ready(name, alpha=0.5)
    scaled = gradients(framework, batch)
    framework.active = False
    plain = gradients(framework, batch)
    assert (framework.scales < 1).any()
    for path, grad in plain.items():
        owner = [k for k, m in enumerate(framework.model.modalities) if f"of_{m}" in path.split(".")]
        scale = framework.scales[owner[0]] if owner else 1.0
        assert torch.allclose(scaled[path], scale * grad, atol=1e-7), path


def test_the_columns_of_a_joint_projection_are_scaled():
    dataset = block_dataset()
    model = build("vbpr", dataset)
    parts = {m: model.modality_parameters(m) for m in model.modalities}
    covered = torch.zeros_like(model.projection.weight)
    for m, ((parameter, part),) in parts.items():
        assert parameter is model.projection.weight and covered[part].shape[1] == dataset.features[m].shape[1]
        covered[part] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("name", MULTIMODAL)
def test_every_backbone_has_parameters_of_each_modality(name):
    model = build(name, block_dataset())
    owned = {m: {id(p) for p, part in model.modality_parameters(m) if not part} for m in model.modalities}
    assert all(model.modality_parameters(m) for m in model.modalities)
    assert len(set().union(*owned.values())) == sum(map(len, owned.values()))


def test_noise_has_the_deviation_of_the_gradient():
    torch.manual_seed(0)
    grad = 3 * torch.randn(50_000) + 1
    kept, scale = grad.clone(), torch.tensor(0.25)
    modulate_(grad, scale, noise=True)
    noise = grad - 0.25 * kept
    assert noise.mean().abs() < 0.05 and noise.std() == pytest.approx(kept.std().item(), rel=0.02)
    one, empty = torch.ones(1), torch.ones(0)
    modulate_(one, scale, noise=True), modulate_(empty, scale, noise=True)
    assert one.item() == pytest.approx(0.25, abs=1e-6)


def test_damping_ends_after_its_last_epoch(tmp_path):
    from mmfast.logs import read_log

    run = block_run(tmp_path, "vbpr", {"name": "ogm", "first_epoch": 1, "last_epoch": 1})
    assert ["measures" in row for row in read_log(run.folder)] == [False, True, False]


def test_a_killed_run_repeats_every_bit(tmp_path):
    dataset, framework = block_dataset(), {"name": "ogm", "ge": True, "alpha": 0.5}
    whole = block_run(tmp_path, "mgcn", framework, dataset, name="whole")
    config = block_config(tmp_path, "mgcn", framework, name="killed")
    with pytest.MonkeyPatch.context() as patch:
        killed_in_step(patch, 9)
        with pytest.raises(Killed):
            fit(config, dataset, progress=False)
    assert_same_run(whole.folder, fit(None, dataset, resume=tmp_path / "runs" / "killed", progress=False).folder)
