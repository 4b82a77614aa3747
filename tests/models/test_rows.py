"""A model that computes the rows of a batch alone has the loss and the gradients of one that computes all of them."""

from __future__ import annotations

import pytest
import torch

from mmfast.registry import MODELS
from tests.golden_case import golden


@pytest.mark.parametrize("name", ["mmgcn", "grcn", "slmrec"])
def test_the_same_terms_and_gradients(name):
    case, entry, results = golden(name), MODELS.get(name), []
    for stale in (True, False):  # vectors that are ranked by later are computed for all rows
        config = entry.Config(name=name, embedding_dim=case.hyper["embedding_size"], stale_eval=stale)
        model = entry(config, case.dataset(), torch.Generator().manual_seed(0))
        terms = model.loss(case.batch())
        parameters = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(sum(terms.values()), parameters, allow_unused=True)
        results.append([*terms.values(), *(torch.zeros(()) if g is None else g.to_dense() for g in grads)])
    for whole, part in zip(*results, strict=True):
        assert torch.allclose(whole, part, rtol=1e-4, atol=1e-5 * float(whole.detach().abs().max()))
