"""BPR-MF, LightGCN, VBPR and FREEDOM agree with the golden numbers: graphs, loss, terms, gradients and scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from mmfast.models.base import Recommender
from mmfast.ops import use_backend
from mmfast.registry import MODELS
from tests.golden_case import GoldenCase, assert_close, assert_gradient_close, golden


@dataclass
class Parity:
    """How one model's options, parameters and terms are called in its golden file."""

    options: Callable[[dict], dict]
    parameters: Callable[[Recommender], dict[str, torch.Tensor]]
    terms: Callable[[dict], dict[str, tuple[str, float]]]


def node_table(model: Recommender, table: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"user_embedding": table[: model.num_users], "item_embedding": table[model.num_users :]}


def freedom_parameters(model: Recommender, of: Callable[[torch.nn.Parameter], torch.Tensor]) -> dict[str, torch.Tensor]:
    named = node_table(model, of(model.nodes.weight))
    for modality in model.modalities:
        named[f"{modality}_features_trainable"] = of(model.sources[modality].weight)
        named[f"{modality}_projection_weight"] = of(model.projections[modality].weight)
        named[f"{modality}_projection_bias"] = of(model.projections[modality].bias)
    return named


def ranking_terms(hyper: dict) -> dict[str, tuple[str, float]]:
    return {"bpr": ("bpr", 1.0), "reg": ("embedding_norm_unweighted", hyper["reg_weight"])}


PARITY = {
    "bpr": Parity(
        lambda h: {"embedding_dim": h["embedding_size"], "reg_weight": h["reg_weight"]},
        lambda m, of: {"user_embedding": of(m.users.weight), "item_embedding": of(m.items.weight)},
        ranking_terms,
    ),
    "lightgcn": Parity(
        lambda h: {
            "embedding_dim": h["embedding_size"],
            "reg_weight": h["reg_weight"],
            "num_layers": h["n_layers"],
        },
        lambda m, of: node_table(m, of(m.nodes.weight)),
        ranking_terms,
    ),
    "vbpr": Parity(
        lambda h: {"embedding_dim": h["embedding_size"], "reg_weight": h["reg_weight"]},
        lambda m, of: {
            "user_embedding": of(m.users.weight),
            "item_embedding": of(m.items.weight),
            "feature_projection_weight": of(m.projection.weight),
            "feature_projection_bias": of(m.projection.bias),
        },
        ranking_terms,
    ),
    "freedom": Parity(
        lambda h: {
            "embedding_dim": h["embedding_size"],
            "reg_weight": h["reg_weight"],
            "num_layers": h["n_ui_layers"],
            "num_item_layers": h["n_mm_layers"],
            "k": h["knn_k"],
            "image_weight": h["mm_image_weight"],
            "edge_dropout": h["dropout"],
        },
        freedom_parameters,
        lambda h: {
            "bpr": ("bpr", 1.0),
            "bpr_text": ("bpr_text_unweighted", h["reg_weight"]),
            "bpr_image": ("bpr_image_unweighted", h["reg_weight"]),
        },
    ),
}


def build(name: str) -> tuple[GoldenCase, Parity, Recommender]:
    case, parity = golden(name), PARITY[name]
    entry = MODELS.get(name)
    config = entry.Config(name=name, **parity.options(case.hyper))
    model = entry(config, case.dataset(), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for key, value in parity.parameters(model, lambda p: p.data).items():
            value.copy_(case.parameter(key))
    if name == "freedom" and case.hyper["dropout"] > 0:
        model.keep_edges(case["kept_edge_index"])
    return case, parity, model


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    grad = parameter.grad
    if grad is None:
        return torch.zeros_like(parameter)
    return grad.to_dense() if grad.is_sparse else grad


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", PARITY)
def test_loss_terms_and_gradients(name, backend):
    case, parity, model = build(name)
    with use_backend(backend):
        terms = model.loss(case.batch())
        total = sum(terms.values())
        total.backward()
    for term, (theirs, weight) in parity.terms(case.hyper).items():
        assert_close(terms[term], case[f"loss_term/{theirs}"] * weight, term)
    assert set(terms) == set(parity.terms(case.hyper))
    assert_close(total, case["loss_total"], "loss")
    grads = parity.parameters(model, gradient)
    largest = max(abs(case[f"grad/{key}"]).max() for key in grads)
    for key, grad in grads.items():
        assert_gradient_close(grad, case[f"grad/{key}"], largest, key)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", PARITY)
def test_scores(name, backend):
    case, _, model = build(name)
    with torch.no_grad(), use_backend(backend):
        users, items = model.embed()
    assert_close(users @ items.t(), case["scores"], "scores")


@pytest.mark.parametrize("name", ["lightgcn", "freedom"])
def test_user_item_graph(name):
    case, _, model = build(name)
    assert_close(dense(model.graph), case.dense("user_item_norm_adj"), "user-item graph")


def dense(graph) -> torch.Tensor:
    matrix = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    matrix[graph.csr.rows(), graph.csr.cols.long()] = graph.csr.entries(torch.float64)
    return matrix


def test_freedom_sampled_graph_and_item_graph():
    case, _, model = build("freedom")
    sampled = "user_item_masked_adj" if case.hyper["dropout"] else "user_item_norm_adj"
    assert_close(dense(model.training_graph), case.dense(sampled), "sampled graph")
    assert_close(dense(model.item_graph()), case.dense("item_item_adj"), "item graph")
    hidden_text = dense(model.item_graph(frozenset({"text"})))
    assert_close(hidden_text, case.dense("image_knn_adj"), "image graph alone")


def test_freedom_samples_as_many_edges_by_the_same_weights():
    from mmfast.graph import edge_weights, keep_edges

    case, _, model = build("freedom")
    rows, cols = model.graph.edges()
    weights = edge_weights(rows, cols, model.graph.num_nodes)
    assert_close(weights, case["edge_sampling_weight"], "edge weights")
    kept = case["kept_edge_index"] if case.hyper["dropout"] else range(len(rows))
    assert len(keep_edges(model.graph, case.hyper["dropout"], seed=1)) == len(kept)
    if case.hyper["dropout"]:
        assert_close(rows[kept], case["kept_edge_users"], "kept users")
