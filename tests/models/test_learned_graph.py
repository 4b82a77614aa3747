"""Item graphs learned from features: the scale of K-COS, the operator and its copy without a gradient."""

from __future__ import annotations

import torch

from mmfast.models.learned_graph import inverse_root


def test_inverse_root_of_positive_zero_and_negative_sums():
    sums = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
    roots = inverse_root(sums)
    assert roots[:2].tolist() == [0.5, 0.0] and roots[2].isnan()  # the reference's formula hides no negative sum
    (grad,) = torch.autograd.grad(roots[:2].sum(), sums)
    assert grad.tolist()[:2] == [-0.0625, 0.0]
