"""Metrics against numbers worked out by hand (protocol section 6) and against the golden rankings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mmfast.errors import MmfastError
from mmfast.metrics import METRICS, check_metrics, per_user_metrics

GOLDEN = Path(os.environ.get("MMFAST_GOLDEN", Path(__file__).parent / "golden"))
CUTS = (5, 10, 20, 50)


def hits_at(*ranks):
    row = np.zeros((1, 50), bool)
    row[0, [rank - 1 for rank in ranks]] = True
    return row


def test_three_targets_hit_at_ranks_two_and_five():
    values = per_user_metrics(hits_at(2, 5), np.array([3]), ("recall", "ndcg", "map", "precision"), CUTS)
    for k in CUTS:
        assert values[f"recall@{k}"][0] == pytest.approx(0.666667, abs=5e-7)
        assert values[f"ndcg@{k}"][0] == pytest.approx(0.477624, abs=5e-7)
        assert values[f"map@{k}"][0] == pytest.approx(0.3)
        assert values[f"precision@{k}"][0] == pytest.approx(2 / k)


def test_mean_with_a_second_user_of_sixty_targets_and_one_hit_at_rank_one():
    hits = np.concatenate([hits_at(2, 5), hits_at(1)])
    values = per_user_metrics(hits, np.array([3, 60]), ("ndcg", "map"), CUTS)
    means = {name: column.mean() for name, column in values.items()}
    expected = {"ndcg": (0.408392, 0.348858, 0.309832, 0.277578), "map": (0.25, 0.2, 0.175, 0.16)}
    for name, numbers in expected.items():
        for k, number in zip(CUTS, numbers, strict=True):
            assert means[f"{name}@{k}"] == pytest.approx(number, abs=5e-7)


def test_ndcg_of_retrieved_hits_is_larger_and_equal_for_one_target():
    retrieved = per_user_metrics(hits_at(2, 5), np.array([3]), ("ndcg",), (20,), "retrieved")["ndcg@20"][0]
    assert retrieved == pytest.approx(0.624051, abs=5e-7)
    for kind in ("standard", "retrieved"):
        one = per_user_metrics(hits_at(4), np.array([1]), ("ndcg",), (5,), kind)["ndcg@5"][0]
        assert one == pytest.approx(1 / np.log2(5))


def test_the_ideal_of_retrieved_hits_is_of_the_first_twenty_ranks_at_every_cut_off():
    found = hits_at(4, 12, 15)
    values = per_user_metrics(found, np.array([9]), ("ndcg",), (5, 20), "retrieved")
    gains = 1 / np.log2(np.arange(2, 22))
    assert values["ndcg@5"][0] == pytest.approx(gains[3] / gains[:3].sum())
    assert values["ndcg@20"][0] == pytest.approx(gains[[3, 11, 14]].sum() / gains[:3].sum())


def test_no_hit_is_zero_everywhere():
    values = per_user_metrics(hits_at(), np.array([2]), tuple(METRICS), CUTS)
    assert all(column.tolist() == [0.0] for column in values.values())


def test_fewer_ranked_items_than_the_cut_off():
    values = per_user_metrics(hits_at(1)[:, :3], np.array([1]), ("recall", "precision", "ndcg", "map"), (20,))
    assert {name: column[0] for name, column in values.items()} == {
        "recall@20": 1.0,
        "precision@20": 0.05,
        "ndcg@20": 1.0,
        "map@20": 1.0,
    }


@pytest.mark.parametrize("part", ["valid", "test"])
def test_golden_rankings(part):
    golden = np.load(GOLDEN / "shared.npz")
    sizes = np.bincount(golden[f"{part}_users"], minlength=int(golden["num_users"]))
    users = golden[f"metrics/{part}/users"]
    hits = golden[f"metrics/{part}/hits"]
    cuts = json.loads(str(golden["hyper_json"]))["topk"]
    values = per_user_metrics(hits, sizes[users], ("recall", "ndcg", "precision", "map"), cuts)
    for name, column in values.items():
        assert column.mean() == pytest.approx(float(golden[f"metrics/{part}/{name}"]), rel=1e-12)


def test_unknown_metric_is_named_with_a_suggestion():
    with pytest.raises(MmfastError, match=r"unknown metric 'recal'\. Did you mean 'recall'\? Known: map, ndcg"):
        check_metrics(("ndcg", "recal"))
