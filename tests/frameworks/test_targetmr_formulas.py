"""Every equation of TargetMR against the literal transcription in float64, gradients and empty sides included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.extend import extend, extended_pairs
from mmfast.frameworks.targetmr.mlp import StageConfig
from mmfast.frameworks.targetmr.pool import Pool, Side, TargetFeatures
from mmfast.frameworks.targetmr.ragged import Ragged, padded, segment_argmax
from mmfast.frameworks.targetmr.refine import (
    Pairs,
    RefineConfig,
    Refinement,
    choose_image_targets,
    contrast,
    refined,
    similarities,
    train_refinement,
)
from mmfast.frameworks.targetmr.select import TextTargetSelector, TextVectors, selection_loss, train_selector
from tests.frameworks import targetmr_literal as literal

D = 6
COUNTS = torch.tensor([3, 1, 0, 4, 2, 2])  # objects per text: item 1 has one, item 2 none
MASKS = torch.tensor([2, 3, 2, 0, 1, 4])  # item 3 has no photo, item 4 one mask


def ragged(counts, generator, dim=D):
    values = torch.randn(int(counts.sum()), dim, dtype=torch.float64, generator=generator)
    return Ragged(values, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]))


def own_rows(vectors, item):
    return slice(int(vectors.ptr[item]), int(vectors.ptr[item + 1]))


def rows(table, item):
    return list(table.values[table.ptr[item] : table.ptr[item + 1]])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def vectors(generator):
    words, contexts = ragged(COUNTS, generator), ragged(COUNTS, generator)
    return TextVectors(
        texts=torch.randn(len(COUNTS), D, dtype=torch.float64, generator=generator),
        words=words.values,
        contexts=contexts.values,
        position=torch.randint(1, 76, (len(words.values),), generator=generator),
        positions=torch.randn(77, D, dtype=torch.float64, generator=generator),
        ptr=words.ptr,
    )


def state(module):
    return dict(module.named_parameters())


def gradients(loss, module):
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, trained)


def equal(a, b):
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))


def test_parameter_counts_of_table_5():
    generator = torch.Generator().manual_seed(0)
    selector = TextTargetSelector(torch.zeros(77, 512), "relu", False, generator)
    assert sum(p.numel() for p in selector.parameters() if p.requires_grad) == 2_369_537
    refinement = Refinement(512, RefineConfig(), generator)
    assert sum(p.numel() for p in refinement.parameters()) == 2_372_096
    assert Pool(512, "linear", generator).attention.shape == (1024, 1)


@pytest.mark.parametrize("learned_positions", [False, True])
def test_selector_and_its_loss(vectors, generator, learned_positions):
    selector = TextTargetSelector(vectors.positions, "relu", learned_positions, generator).double()
    assert torch.equal(selector.positions, vectors.positions) != learned_positions
    scores = selector.score(vectors)
    for item in range(len(COUNTS)):
        wanted = literal.logits(item, vectors, state(selector))
        assert torch.allclose(scores.values[scores.ptr[item] : scores.ptr[item + 1]], wanted, rtol=1e-10)
    items, labels = torch.tensor([4, 0, 3]), torch.tensor([2, 0, -1, 1, 1, -1])
    loss = selection_loss(selector.score(vectors, items), labels[items])
    wanted = literal.selection_loss(items.tolist(), labels, vectors, state(selector))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert equal(gradients(loss, selector), gradients(wanted, selector))


def test_choice_of_the_text_target_and_its_vector(vectors, generator):
    selector = TextTargetSelector(vectors.positions, "relu", False, generator).double()
    chosen = selector.choose(vectors)
    shares = [literal.logits(item, vectors, state(selector)) for item in range(len(COUNTS))]
    assert chosen.tolist() == [int(share.argmax()) if len(share) else -1 for share in shares]
    target, aux = vectors.objects().split(chosen)
    for item, at in enumerate(chosen.tolist()):
        objects = list(vectors.words[own_rows(vectors, item)] + vectors.contexts[own_rows(vectors, item)])
        own, others = literal.split(objects, at)
        assert torch.allclose(target[item], torch.zeros(D).double() if own is None else own)
        assert equal(rows(aux, item), others)
    each = vectors.objects(normalize_each=True).values
    assert torch.allclose(
        each,
        vectors.words / vectors.words.norm(dim=1)[:, None] + vectors.contexts / vectors.contexts.norm(dim=1)[:, None],
    )


def test_image_target_is_the_mask_nearest_to_the_text(generator):
    masks, text = ragged(MASKS, generator), torch.randn(len(MASKS), D, dtype=torch.float64, generator=generator)
    cosines = [[float(literal.cosine(v, text[item])) for v in rows(masks, item)] for item in range(len(MASKS))]
    assert torch.allclose(
        similarities(masks, text), torch.tensor([c for own in cosines for c in own], dtype=torch.float64)
    )
    assert choose_image_targets(masks, text).tolist() == [int(np.argmax(c)) if c else -1 for c in cosines]


def test_contrast_and_its_gradient(generator):
    image, text = ragged(MASKS, generator), ragged(COUNTS, generator)
    chosen = torch.tensor([1, 0, 1, -1, 0, 3]), torch.tensor([0, 0, -1, 2, 1, 0])
    (image_target, image_aux), (text_target, text_aux) = image.split(chosen[0]), text.split(chosen[1])
    pairs = Pairs(image_target, image_aux, text_target, text_aux, torch.ones(len(MASKS), dtype=torch.bool))
    settings = RefineConfig()
    refinement = Refinement(D, settings, generator).double()
    items = torch.tensor([5, 1, 4, 0])
    loss = contrast(refinement, pairs, items, settings)
    sides = [
        [literal.split(rows(table, item), int(at[item])) for item in items.tolist()]
        for table, at in ((image, chosen[0]), (text, chosen[1]))
    ]
    wanted = literal.contrast(*sides, lambda v: literal.mlp(v, state(refinement), 8))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-10)
    assert equal(gradients(loss, refinement), gradients(wanted, refinement))
    assert torch.allclose(refined(refinement, image).values[3], literal.mlp(image.values[3], state(refinement), 8))


def features_of(counts, generator, kind="linear"):
    objects = ragged(counts, generator)
    chosen = (counts > 0).long() - 1
    target, aux = objects.split(chosen)
    return TargetFeatures(Side(target, aux, chosen), kind, generator).double(), target, aux


def test_target_aware_features_and_their_gradient(generator):
    source, target, aux = features_of(COUNTS, generator)
    wanted = torch.stack([literal.features(target[v], rows(aux, v), source.pool.attention) for v in range(len(COUNTS))])
    assert torch.allclose(source.all(), wanted, rtol=1e-12)
    direction = torch.randn(wanted.shape, dtype=torch.float64, generator=generator)
    assert equal(gradients((source.all() * direction).sum(), source), gradients((wanted * direction).sum(), source))
    some = torch.tensor([5, 0, 2])
    assert torch.equal(source.rows(some), source.all()[some])
    slope = gradients((source.all() * direction).sum(), source)[0]
    assert not slope[:D].any() and slope[D:].any()  # the target's half of the attention cancels


def test_tanh_attention_depends_on_the_target(generator):
    source, target, aux = features_of(COUNTS, generator, "tanh")
    a, u = source.pool.mixing, source.pool.attention
    for v in range(len(COUNTS)):
        others = rows(aux, v)
        pooled = torch.zeros(D, dtype=torch.float64)
        if others:
            shares = torch.softmax(
                torch.stack([(torch.tanh(a @ torch.cat([target[v], o])) @ u).squeeze() for o in others]), 0
            )
            pooled = sum(share * other for share, other in zip(shares, others, strict=True))
        assert torch.allclose(source.all()[v], torch.cat([target[v], pooled]), rtol=1e-10)
    direction = torch.randn(len(COUNTS), 2 * D, dtype=torch.float64, generator=generator)
    assert gradients((source.all() * direction).sum(), source)[1][:, :D].any()


@pytest.mark.parametrize("eta", [-0.5, 0.0, 0.4, 0.99])
def test_extended_graph(generator, eta):
    x = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    pairs = sorted({(int(u), int(i)) for u, i in torch.randint(0, 9, (20, 2), generator=generator).tolist()})
    users, items = np.array(pairs).T
    told = []
    found = extend(x, users, items, eta, None, 10_000, told.append)
    wanted = literal.extended(pairs, x, eta)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == wanted
    assert len(told) == 1 and f"to {len(pairs)} training rows" in told[0]
    with pytest.raises(MmfastError, match=r"more than max_edges=5; raise eta"):
        extend(x, users, items, eta, None, 5, told.append)


def test_extended_graph_keeps_the_most_similar_items_and_blocks_change_nothing(generator, monkeypatch):
    x = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    pairs = np.unique(torch.randint(0, 30, (90, 2), generator=generator).numpy(), axis=0)
    users, items = pairs.T
    cosines = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2).fill_diagonal_(-2)
    near = [[int(k) for k in row.argsort(descending=True)[:3] if row[k] > 0.2] for row in cosines]
    wanted = sorted({*map(tuple, pairs.tolist()), *((u, k) for u, i in pairs.tolist() for k in near[i])})
    whole = extend(x, users, items, 0.2, 3, None, lambda text: None)
    monkeypatch.setattr("mmfast.frameworks.targetmr.extend.PAIRS_AT_ONCE", 7)
    blocks = extend(x, users, items, 0.2, 3, None, lambda text: None)
    assert list(zip(*(part.tolist() for part in whole), strict=True)) == wanted
    assert all(np.array_equal(a, b) for a, b in zip(whole, blocks, strict=True))


def test_extended_graph_without_similar_items_is_the_training_graph():
    users, items = np.array([0, 0, 2]), np.array([1, 3, 0])
    found = extended_pairs(users, items, 4, np.zeros(5, np.int64), np.zeros(0, np.int32))
    assert [part.tolist() for part in found] == [[0, 0, 2], [1, 3, 0]]


def test_ragged_choices():
    scores, ptr = torch.tensor([1.0, 3.0, 3.0, -1.0]), torch.tensor([0, 3, 3, 4])
    assert segment_argmax(scores, ptr).tolist() == [1, -1, 0]
    assert padded(scores, ptr, 0.0).tolist() == [[1, 3, 3], [0, 0, 0], [-1, 0, 0]]
    assert segment_argmax(scores[:0], torch.zeros(3, dtype=torch.int64)).tolist() == [-1, -1]


def test_selectors_learn_what_can_be_learned(generator):
    counts = torch.randint(1, 4, (400,), generator=generator)
    words = ragged(counts, generator, 16)
    kinds = torch.randint(0, 8, (len(words.values),), generator=generator)
    labels = segment_argmax(-kinds.double() - 0.01 * torch.arange(len(kinds)) % 1, words.ptr)
    table = torch.nn.functional.one_hot(kinds, 16).float()
    position = torch.randint(1, 76, (len(kinds),), generator=generator)
    vectors = TextVectors(torch.zeros(400, 16), table, table, position, torch.zeros(77, 16), words.ptr)
    settings = StageConfig(batch_size=32, learning_rate=3e-3)
    found = train_selector(vectors, labels, settings, False, seed=1)
    assert max(found.accuracy) > 0.85 and found.labelled == int((counts > 1).sum())
    again = train_selector(vectors, labels, settings, False, seed=1)
    assert found.accuracy == again.accuracy
    with pytest.raises(MmfastError, match="nothing to learn from"):
        train_selector(vectors, torch.full((400,), -1), settings, False, seed=1)


def test_refinement_lowers_the_contrast(generator):
    image, text = ragged(torch.full((200,), 3), generator, 8), ragged(torch.full((200,), 2), generator, 8)
    chosen = torch.zeros(200, dtype=torch.int64)
    (v, v_aux), (t, t_aux) = image.split(chosen), text.split(chosen)
    pairs = Pairs(v, v_aux, t, t_aux, torch.ones(200, dtype=torch.bool))
    _, scores = train_refinement(pairs, RefineConfig(epochs=5, batch_size=32), seed=0)
    assert max(scores) > scores[0]
    nobody = Pairs(v, v_aux, t, t_aux, torch.zeros(200, dtype=torch.bool))
    assert train_refinement(nobody, RefineConfig(epochs=1), seed=0)[1] == []
