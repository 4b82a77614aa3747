"""Full ranking: masks, candidates, cold items, the golden scores, and the messages for bad requests."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import mmfast
from mmfast.cli import main
from mmfast.config import EvaluateConfig
from mmfast.data.dataset import Dataset, Interactions
from mmfast.errors import MmfastError
from mmfast.evaluate import embed, evaluate, evaluate_modalities, gather_rows
from tests.frameworks.common import block_run
from tests.models.test_behaviour import block_dataset
from tests.test_metrics import GOLDEN
from tests.toys import toy_dataset


class Fixed(nn.Module):
    """A model whose scores are given: users are rows of the score matrix, items the unit vectors."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.as_tensor(np.asarray(scores), dtype=torch.float32)

    def embed(self, hide=()):
        return self.scores, torch.eye(self.scores.shape[1])


def dataset_of(num_users, num_items, **parts):
    pairs = {name: Interactions.from_pairs(np.array(u), np.array(i)) for name, (u, i) in parts.items()}
    return Dataset("small", num_users, num_items, **pairs)


@pytest.fixture
def small():
    return dataset_of(3, 5, train=([0, 1, 2], [0, 1, 2]), valid=([0], [1]), test=([0, 1, 1], [2, 0, 3]))


def golden_dataset(golden):
    parts = {part: (golden[f"{part}_users"], golden[f"{part}_items"]) for part in ("train", "valid", "test")}
    return dataset_of(int(golden["num_users"]), int(golden["num_items"]), **parts)


@pytest.mark.parametrize(
    ("part", "matrix", "prefix"),
    [
        ("valid", "score_matrix", "valid"),
        ("test", "score_matrix", "test"),
        ("test", "score_matrix_boosted", "test_boosted"),
    ],
)
def test_golden_scores_give_golden_metrics(part, matrix, prefix):
    golden = np.load(GOLDEN / "shared.npz")
    dataset = golden_dataset(golden)
    cuts = json.loads(str(golden["hyper_json"]))["topk"]
    config = EvaluateConfig(top_k=cuts, batch_users=7)
    result = evaluate(Fixed(golden[f"metrics/{matrix}"]), dataset, part, config)
    for name, value in result.metrics.items():
        assert value == pytest.approx(float(golden[f"metrics/{prefix}/{name}"]), rel=1e-12)
    if prefix != "test_boosted":
        order = np.argsort(golden[f"metrics/{part}/users"])
        expected = golden[f"metrics/{part}/topk_items"][order]
        # Where a user has fewer unmasked items than ranks, the reference lists masked ones at the end.
        ranked = result.top_items >= 0
        np.testing.assert_array_equal(result.top_items[ranked], expected[ranked])
        assert ranked[:, : min(cuts)].all()


def test_only_train_items_are_masked_and_valid_items_compete_on_test(small):
    scores = [[9, 8, 7, 1, 0], [0, 9, 1, 2, 3], [0, 0, 0, 0, 0]]
    result = evaluate(Fixed(scores), small, "test", EvaluateConfig(top_k=(1, 2)))
    assert result.users.tolist() == [0, 1]  # user 2 has no test row
    assert result.top_items.tolist() == [[1, 2], [4, 3]]
    assert result.metrics["recall@1"] == 0.0
    assert result.per_user["recall@2"].to_list() == [1.0, 0.5]
    assert result.metrics["recall@2"] == 0.75


def test_masked_places_are_minus_one(small):
    result = evaluate(Fixed(np.zeros((3, 5))), small, "test", EvaluateConfig(top_k=(50,)))
    assert result.top_items.shape == (2, 5)
    assert (result.top_items[:, -1] == -1).all()
    assert result.metrics["recall@50"] == 1.0


def test_cold_candidates_rank_only_items_without_a_train_row(small):
    # Cold items are 3 and 4; only user 1 has one of them in test.
    scores = [[0, 0, 0, 0, 0], [99, 0, 99, 1, 2], [0, 0, 0, 0, 0]]
    result = evaluate(Fixed(scores), small, "test", EvaluateConfig(top_k=(1, 2), candidates="cold"))
    assert result.users.tolist() == [1]
    assert result.left_out == 1
    assert result.top_items.tolist() == [[4, 3]]
    assert result.metrics["recall@1"] == 0.0
    assert result.metrics["recall@2"] == 1.0


def test_cold_candidates_without_a_cold_target(small):
    with pytest.raises(MmfastError, match="none of the 1 users of the valid part has an item without a training row"):
        evaluate(Fixed(np.zeros((3, 5))), small, "valid", EvaluateConfig(candidates="cold"))


def test_blocks_do_not_change_results():
    dataset, scores = toy_dataset(), np.random.default_rng(0).normal(size=(30, 24))
    one = evaluate(Fixed(scores), dataset, "test", EvaluateConfig(batch_users=1))
    all_at_once = evaluate(Fixed(scores), dataset, "test")
    assert one.metrics == all_at_once.metrics
    assert one.per_user.equals(all_at_once.per_user)


def test_rounding_is_asked_for(small):
    scores = Fixed(np.random.default_rng(1).normal(size=(3, 5)))
    exact = evaluate(scores, small, "test", EvaluateConfig(top_k=(3,))).metrics
    rounded = evaluate(scores, small, "test", EvaluateConfig(top_k=(3,), round_digits=2)).metrics
    assert rounded == {name: round(value, 2) for name, value in exact.items()}
    assert rounded != exact


def test_bad_requests_are_told(small):
    model = Fixed(np.zeros((3, 5)))
    with pytest.raises(MmfastError, match=r"part: got 'tset'\. Did you mean 'test'\? Evaluate valid or test"):
        evaluate(model, small, "tset")
    with pytest.raises(MmfastError, match="unknown metric 'mrr'"):
        evaluate(model, small, "test", EvaluateConfig(metrics=("mrr",)))
    with pytest.raises(MmfastError, match="user vectors hold nan or inf"):
        evaluate(Fixed(np.full((3, 5), np.nan)), small, "test")


def test_a_run_brings_its_data_and_settings(small):
    model, settings = Fixed(np.zeros((3, 5))), EvaluateConfig(top_k=(3,), metrics=("recall",))
    run = SimpleNamespace(model=model, dataset=small, config=SimpleNamespace(evaluate=settings))
    assert (
        evaluate(run).metrics == evaluate(run, part="test").metrics == evaluate(model, small, "test", settings).metrics
    )
    assert evaluate(model, small).metrics == evaluate(model, small, "valid").metrics
    assert set(evaluate(run, part="test", config=EvaluateConfig(top_k=(1,))).metrics) > {"recall@1", "map@1"}
    assert mmfast.evaluate(run, small, "valid").users.tolist() == [0]
    with pytest.raises(MmfastError, match=r"dataset: got 'test'; write part='test'"):
        evaluate(run, "test")
    with pytest.raises(MmfastError, match=r"got a Fixed without data; pass dataset=\.\.\., or a Run"):
        evaluate(model)


def test_embed_restores_the_mode():
    model = Fixed(np.zeros((2, 2))).train()
    users, _ = embed(model)
    assert model.training
    assert not users.requires_grad


def test_gather_rows_in_any_order():
    rows = gather_rows(np.array([0, 2, 2, 5]), np.arange(10, 15), np.array([2, 0, 2, 1]))
    assert rows.ptr.tolist() == [0, 3, 5, 8, 8]
    assert rows.items.tolist() == [12, 13, 14, 10, 11, 12, 13, 14]


def test_the_package_name_is_callable(small):
    assert mmfast.evaluate(Fixed(np.zeros((3, 5))), small, "test").users.tolist() == [0, 1]


def test_modalities_are_evaluated_one_by_one(tmp_path, capsys, monkeypatch):
    dataset = block_dataset()
    run = block_run(tmp_path, "vbpr", [], dataset)
    results = evaluate_modalities(run)
    assert list(results) == ["all", "text", "image", "sound"]
    assert results["all"].metrics == evaluate(run).metrics
    assert results["text"].metrics == evaluate(run, hide={"image", "sound"}).metrics
    monkeypatch.setattr("mmfast.run.dataset_of", lambda config: dataset)
    assert main(["evaluate", str(run.folder), "--modalities", "--part", "test"]) == 0
    out = capsys.readouterr().out
    assert f"{results['image'].metrics['recall@5']:.5f}" in out and out.splitlines()[1].split()[1:] == list(results)
    assert main(["evaluate", str(run.folder), "--modalities", "--hide", "image"]) == 2
    assert "leave --hide and --per-user out" in capsys.readouterr().err
    assert main(["evaluate", str(run.folder), "--modalities", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["text"] == results["text"].metrics
    with pytest.raises(MmfastError, match="the model reads no modality; there is none to hide"):
        evaluate_modalities(block_run(tmp_path, "bpr", [], dataset))
