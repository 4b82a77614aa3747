"""Item graphs against dense matrices made entry by entry from the protocol's definitions."""

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.graph import mixed_neighbour_graph, user_item_graph
from mmfast.item_graphs import item_graphs, mixed_graph, union_graph
from mmfast.ops import knn_graph

NUM_ITEMS, K = 40, 6


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    tables = {m: torch.rand(NUM_ITEMS, width, generator=generator) for m, width in (("image", 9), ("text", 5))}
    tables["text"][3] = 0  # an item without text
    return tables


def dense(graph):
    return graph.propagate(torch.eye(graph.num_nodes), 1, "last")


def by_definition(table, kind):
    x = torch.nn.functional.normalize(table.double())
    cosine = x @ x.T
    graph = torch.zeros(NUM_ITEMS, NUM_ITEMS, dtype=torch.float64)
    for i in range(NUM_ITEMS):
        others = sorted((-cosine[i, j].item(), j) for j in range(NUM_ITEMS) if j != i and x[i].any() and x[j].any())
        for j in [i] + [j for _, j in others[: K - 1]]:
            graph[i, j] = 1 if kind == "bin" else cosine[i, j]
    row = graph.sum(1)
    if kind == "bin":
        return graph / row[:, None]
    scale = torch.where(row > 0, row.clamp_min(1e-300) ** -0.5, 0)
    return graph * scale[:, None] * scale


@pytest.mark.parametrize("kind", ["bin", "cosine"])
@pytest.mark.parametrize("block_bytes", [100, 64 << 20])
def test_graphs_of_each_modality(features, kind, block_bytes):
    graphs = item_graphs(features, K, kind, block_bytes)
    assert list(graphs) == ["image", "text"]
    for modality, graph in graphs.items():
        assert torch.allclose(dense(graph).double(), by_definition(features[modality], kind), atol=1e-6)
    text = dense(graphs["text"])
    assert text[3].nonzero().flatten().tolist() == text[:, 3].nonzero().flatten().tolist() == [3] * (kind == "bin")


def test_mixture(features):
    graphs, weights = item_graphs(features, K), {"image": 0.1, "text": 0.9}
    mixed = dense(mixed_graph(graphs, weights))
    want = sum(w * by_definition(features[m], "bin") for m, w in weights.items())
    assert torch.allclose(mixed.double(), want, atol=1e-6)
    neighbours = {m: knn_graph(table, K)[0].numpy() for m, table in features.items()}
    assert torch.allclose(mixed, dense(mixed_neighbour_graph(neighbours, weights, NUM_ITEMS)), atol=1e-7)


def test_union_keeps_the_larger_entry(features):
    graphs = item_graphs(features, K, "cosine")
    image, text = (by_definition(features[m], "cosine") for m in ("image", "text"))
    want = torch.where(image == 0, text, torch.where(text == 0, image, torch.maximum(image, text)))
    assert torch.allclose(dense(union_graph(graphs)).double(), want, atol=1e-6)
    # An entry that only one graph has keeps its value, though it be negative: an absent entry is no zero.
    negative = mixed_graph({"image": graphs["image"]}, {"image": -1.0})
    assert torch.equal(dense(union_graph({"image": negative})), dense(negative))
    assert (dense(union_graph({"a": negative, "b": graphs["text"]}))[image > 0] < 0).any()


def test_scales_of_other_graphs_count(features):
    graph = user_item_graph(np.array([0, 1]), np.array([0, 1]), 2, 2, norm="rw")
    assert torch.allclose(dense(mixed_graph({"a": graph, "b": graph}, {"a": 1, "b": 2})), 3 * dense(graph))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: item_graphs(f, K, "cos"), "kind is 'cos'; choose bin or cosine"),
        (lambda f: item_graphs({**f, "audio": torch.ones(9, 2)}), "the modalities have .*'audio': 9.* items"),
        (lambda f: mixed_graph(item_graphs(f), {"image": 1.0}), r"graphs of \['image', 'text'\] and weights of"),
        (lambda f: union_graph({}), "no graphs; give one or more"),
        (
            lambda f: union_graph({**item_graphs(f), "c": item_graphs({"c": torch.ones(20, 1)})["c"]}),
            "'c': 20} items; wanted the same number in each",
        ),
    ],
)
def test_refusals(features, call, message):
    with pytest.raises(MmfastError, match=message):
        call(features)
