"""A NaN or an infinity in any table makes a loss that is no number, as plain PyTorch has it: none is hidden."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mmfast import ops
from tests.accuracy import ragged

SIZE, WIDTH = 35, 9  # past the lanes of a vector


def table(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def triple_losses(x, y, index):
    forms = {f"bpr_loss, {kind}": partial(ops.bpr_loss, kind=kind) for kind in ("logsigmoid", "eps", "raw", "log2")}
    forms["triple_margins"] = ops.triple_margins
    return {name: (lambda u, i, form=form: form(u, i, *index), (x, y)) for name, form in forms.items()}


def distillation_losses():
    margins = (table(SIZE), *(table(2, SIZE, seed=seed) for seed in range(1, 6)))
    forms = {
        f"ckd_loss, {specific}, {weights}, {eps}": {"specific": specific, "weights": weights, "eps": eps}
        for specific in ("hinge", "cross_entropy", "square")
        for weights, eps in (("paper", 0.0), ("code", 1e-8))
    }
    return {name: (lambda *m, form=form: ops.ckd_loss(*m, **form)[0], margins) for name, form in forms.items()}


def contrastive_losses(x, y, generator):
    (aux, ptr), (words, text_ptr) = (ragged(SIZE, WIDTH, generator) for _ in range(2))
    given = (x, aux.float(), y, words.float())
    losses = {
        "info_nce": (lambda x, y: ops.info_nce(x, y, 0.2, negatives="all", intra=True), (x, y)),
        "info_nce, products": (lambda x, y: ops.info_nce(x, y, 0.2, normalize=False), (x, y)),
        "transfer_kl": (lambda u, i, c: ops.transfer_kl(u, i, c, 0.7), (x, y, table(2, SIZE, WIDTH, seed=2))),
    }
    for with_positive in (False, True):
        contrast = partial(ops.target_contrast, temperature=0.5, with_positive=with_positive)
        losses[f"target_contrast, {with_positive}"] = (
            lambda v, a, t, w, contrast=contrast: contrast(v, a, ptr, t, w, text_ptr),
            given,
        )
    return losses


def losses():
    """Return {name: (function of tables, those tables)}."""
    generator = torch.Generator().manual_seed(1)
    x, y = table(SIZE, WIDTH), table(SIZE, WIDTH, seed=1)
    index = [torch.randperm(SIZE, generator=generator) for _ in range(3)]  # every row is somebody's
    return {
        **triple_losses(x, y, index),
        **distillation_losses(),
        **contrastive_losses(x, y, generator),
        "cosine_loss": (ops.cosine_loss, (x, y)),
        "gathered_norm": (lambda x: ops.gathered_norm(x, index[0]), (x,)),
        "moments": (ops.moments, (x,)),
        "moment_alignment": (ops.moment_alignment, (x, y)),
    }


LOSSES = losses()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_hides_nothing(name, bad):
    loss, tables = LOSSES[name]
    for which in range(len(tables)):
        for place in (0, tables[which].numel() // 2, -1):
            given = [t.clone() for t in tables]
            given[which].view(-1)[place] = bad
            ours = loss(*given)
            with ops.use_backend("reference"):
                want = loss(*given)
            # Infinities that meet are NaN or infinite by the order of the sums: either is no number.
            assert torch.equal(ours.isfinite(), want.isfinite()), (which, place)
            assert bad == bad or torch.equal(ours.isnan(), want.isnan()), (which, place)
            torch.testing.assert_close(*(t[want.isfinite()] for t in (ours, want)))
