"""Contrasts over all users or items may take some of them, drawn anew at every step."""

from __future__ import annotations

import importlib

import pytest
import torch

from mmfast.data.sampler import Sampler
from mmfast.models.layers import drawn
from tests.models.test_behaviour import ITEMS, USERS, block_dataset, build


def test_rows_are_drawn_once_each():
    assert drawn(None, 5, torch.device("cpu")) == drawn(5, 5, torch.device("cpu")) == slice(None)
    torch.manual_seed(0)
    first, second = (drawn(40, 100, torch.device("cpu")) for _ in range(2))
    assert len(first.unique()) == 40 and first.max() < 100 and not torch.equal(first, second)


@pytest.mark.parametrize(("name", "option"), [("micro", "cl_items"), ("mentor", "cl_nodes")])
def test_the_same_rows_of_both_views_meet(name, option, monkeypatch):
    dataset, seen = block_dataset(), []
    batch = next(Sampler(dataset, 64, seed=0).epoch(0))
    module = importlib.import_module(f"mmfast.models.{name}")
    info_nce = module.info_nce

    def watched(one, two, *rest, **options):
        seen.append((one.detach().clone(), two.detach().clone()))
        return info_nce(one, two, *rest, **options)

    monkeypatch.setattr(module, "info_nce", watched)

    def run(most):
        seen.clear()
        torch.manual_seed(1)
        terms = build(name, dataset, **{option: most}).loss(batch)
        sum(terms.values()).backward()
        return list(seen)

    whole, few, all_of_them = run(None), run(3), run(max(USERS, ITEMS))
    assert {len(one) for one, _ in few} == {3} and len(few) == len(whole)
    for pair, drawn_pair, same in zip(whole, few, all_of_them, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(pair, same, strict=True))
        place = [
            [int((table == row).all(1).nonzero()[0]) for row in part]
            for table, part in zip(pair, drawn_pair, strict=True)
        ]
        assert place[0] == place[1] and len(set(place[0])) == 3
