"""Item graphs learned from features: the scale of K-COS, and graphs that are built once an epoch."""

from __future__ import annotations

import pytest
import torch

from mmfast.data.sampler import Sampler
from mmfast.models.learned_graph import inverse_root
from tests.models.test_behaviour import block_dataset, build


def test_inverse_root_of_positive_zero_and_negative_sums():
    sums = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
    roots = inverse_root(sums)
    assert roots[:2].tolist() == [0.5, 0.0] and roots[2].isnan()  # the reference's formula hides no negative sum
    (grad,) = torch.autograd.grad(roots[:2].sum(), sums)
    assert grad.tolist()[:2] == [-0.0625, 0.0]


@pytest.mark.parametrize("name", ["lattice", "micro"])
def test_graphs_are_built_once_an_epoch_and_move_with_the_model(name):
    dataset = block_dataset()
    model = build(name, dataset)
    names, batch = set(model.state_dict()), next(Sampler(dataset, 64, seed=0).epoch(0))
    weight = model.projections["text"].weight
    first = model.loss(batch)
    assert torch.autograd.grad(sum(first.values()), weight)[0].any()
    kept = model.learned
    again = model.loss(batch)
    assert model.learned is kept and {k: v.item() for k, v in again.items()} == {k: v.item() for k, v in first.items()}
    assert torch.autograd.grad(sum(again.values()), weight, allow_unused=True) == (None,)
    assert set(model.state_dict()) == names
    model.on_epoch_start(1, torch.Generator())
    model.loss(batch)
    assert model.learned is not kept
    assert {buffer.device.type for buffer in model.to("meta").learned.buffers()} == {"meta"}
