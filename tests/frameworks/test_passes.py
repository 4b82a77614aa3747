"""Passes with modalities hidden: what models compute once or by shortcuts equals passes on their own."""

from __future__ import annotations

import pytest
import torch

from mmfast.data.sampler import Sampler
from mmfast.graph import Graph
from mmfast.models.base import Recommender
from tests.frameworks.common import MULTIMODAL, batch_with_others
from tests.models.test_behaviour import block_dataset, build, train

LATE = [("vbpr", "concat"), ("vbpr", "channels"), ("deepstyle", "sum"), ("deepstyle", "channels")]


def trained(name: str, **options):
    dataset = block_dataset()
    model = build(name, dataset, **options)
    train(model, dataset, 2)
    hides = [frozenset(), *(frozenset(model.modalities) - {m} for m in model.modalities), frozenset({"image"})]
    return model, dataset, hides


@pytest.mark.parametrize(("name", "fusion"), LATE)
def test_late_fusion_margins_equal_masked_passes(name, fusion):
    model, dataset, hides = trained(name, fusion=fusion)
    batch = batch_with_others(dataset)
    assert model.late_fusion
    assert torch.allclose(model.margins(batch, hides), Recommender.margins(model, batch, hides), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_shared_passes_equal_passes_on_their_own(name):
    model, dataset, hides = trained(name)
    model.eval()  # what is drawn at random in training is drawn once for all passes when they share
    batch = batch_with_others(dataset)

    def one_step(context):
        model.zero_grad()
        torch.manual_seed(0)
        model.on_epoch_start(1, torch.Generator().manual_seed(0))
        with context:
            terms = model.loss(batch)
            margins = model.margins(batch, hides)
        (sum(terms.values()) + margins.square().sum()).backward()
        grads = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
        return terms, margins.detach(), grads

    alone, shared = one_step(torch.enable_grad()), one_step(model.sharing(hides))
    assert all(shared[0][term].item() == pytest.approx(value.item(), rel=1e-5) for term, value in alone[0].items())
    assert torch.allclose(shared[1], alone[1], atol=1e-5)
    scale = max(grad.abs().max() for grad in alone[2].values())
    assert shared[2].keys() == alone[2].keys()
    for parameter, grad in alone[2].items():
        assert torch.allclose(shared[2][parameter], grad, atol=2e-5 * scale), parameter


@pytest.mark.parametrize("name", MULTIMODAL)
def test_other_triples_change_no_loss(name):
    model, dataset, _ = trained(name)
    model.eval()
    plain = next(Sampler(dataset, 64, seed=0).epoch(0))
    for batch in (plain, batch_with_others(dataset)):
        torch.manual_seed(0)
        model.on_epoch_start(1, torch.Generator().manual_seed(0))
        terms = {term: value.item() for term, value in model.loss(batch).items()}
        if batch is plain:
            wanted = terms
    assert terms == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_masked_model_hides_in_its_loss_and_in_its_vectors(name):
    dataset = block_dataset()
    model = build(name, dataset)
    wanted = [table.detach().clone() for table in model.eval().embed(hide={"image", "sound"})]
    model.mask({"image", "sound"})
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.embed(), wanted, strict=True))
    # A loss that reads the hidden features would tell one set of them from another with the same mean.
    generator = torch.Generator().manual_seed(0)
    shuffled = dict(dataset.features)
    for modality in ("image", "sound"):
        shuffled[modality] = dataset.features[modality][torch.randperm(dataset.num_items, generator=generator).numpy()]
    other = build(name, dataset.with_features(shuffled))
    if name in ("lattice", "micro", "mgcn", "smore", "freedom", "mentor", "lirdrec"):
        return  # their item graphs are made of the raw features when they are built, and stay
    other.mask({"image", "sound"})
    batch = next(Sampler(dataset, 64, seed=0, with_negatives=model.uses_negatives).epoch(0))
    losses = []
    for each in (model, other.eval()):
        torch.manual_seed(0)
        losses.append({term: value.item() for term, value in each.loss(batch).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_states_of_a_modality_are_computed_side_by_side_and_once():
    model, _, hides = trained("mgcn")
    calls = []

    def compute(states):
        calls.append(states)
        return [float(state) for state in states]

    with model.sharing(hides):
        values = [model.in_state("x", "image", hide, compute) for hide in hides for _ in range(2)]
    assert calls == [(False, True)] and set(values) == {0.0, 1.0}
    assert model.in_state("x", "image", {"image"}, compute) == 1.0 and calls[-1] == (True,)


def test_mgcn_propagates_all_states_in_one_call(monkeypatch):
    model, dataset, hides = trained("mgcn")
    widths, propagate = [], Graph.propagate

    def seen(self, x, *args, **options):
        widths.append(x.shape[1:])
        return propagate(self, x, *args, **options)

    monkeypatch.setattr(Graph, "propagate", seen)
    batch = batch_with_others(dataset)
    model.loss(batch)
    alone = len(widths)
    with model.sharing(hides):
        model.loss(batch), model.margins(batch, hides)
    assert len(widths) == 2 * alone and any(width[0] == 2 for width in widths[alone:] if len(width) == 2)
