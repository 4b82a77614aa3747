"""What every backbone must do, on data whose right answer is known: two blocks of users, two blocks of items."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmfast.data.dataset import Dataset, Interactions
from mmfast.data.sampler import Sampler
from mmfast.errors import MmfastError
from mmfast.evaluate import evaluate
from mmfast.models.features import FrozenFeatures, HiddenFeatures, TrainableFeatures
from mmfast.ops import use_backend
from mmfast.optim import Adam
from mmfast.registry import MODELS

USERS, ITEMS, COLD = 40, 24, 22  # the last item of each block never occurs in train
# Those of the package: other tests register toys of their own.
NAMES = [name for name in MODELS.names() if MODELS.get(name).__module__.startswith("mmfast.")]
WITH_FEATURES = {"image": 6, "sound": 3, "text": 5}


def block_dataset(features: dict[str, int] | None = None) -> Dataset:
    """Users like the items of their own parity; of each user's items one is held out for valid and one for test."""
    rng = np.random.default_rng(0)
    pairs = {"train": [], "valid": [], "test": []}
    for user in range(USERS):
        liked = rng.permutation(np.arange(user % 2, COLD, 2))
        pairs["train"] += [(user, item) for item in liked[2:]]
        pairs["valid"].append((user, liked[0]))
        pairs["test"].append((user, liked[1]))
    parts = {name: Interactions.from_pairs(*np.array(rows).T) for name, rows in pairs.items()}
    kind = np.arange(ITEMS) % 2
    tables = {
        name: (rng.normal(size=(2, dim))[kind] + 0.1 * rng.normal(size=(ITEMS, dim))).astype(np.float32)
        for name, dim in (WITH_FEATURES if features is None else features).items()
    }
    return Dataset("blocks", USERS, ITEMS, **parts, features=tables)


def build(name: str, dataset: Dataset, **options):
    entry = MODELS.get(name)
    options = {"embedding_dim": 8, **({"k": 4} if "k" in entry.Config.model_fields else {}), **options}
    return entry(entry.Config(name=name, **options), dataset, torch.Generator().manual_seed(1))


def train(model, dataset: Dataset, epochs: int, lr: float = 0.02) -> list[float]:
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    sampler = Sampler(dataset, 64, seed=3, with_negatives=model.uses_negatives)
    losses = []
    for epoch in range(epochs):
        torch.manual_seed(epoch)  # as the trainer does, for models that draw from the global generator
        model.on_epoch_start(epoch, torch.Generator().manual_seed(epoch))
        for batch in sampler.epoch(epoch):
            optimizer.zero_grad()
            loss = sum(model.loss(batch).values())
            loss.backward()
            optimizer.step()
            model.after_step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_learns_the_blocks(name):
    dataset = block_dataset()
    model = build(name, dataset)
    losses = train(model, dataset, 30)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    model.eval()
    users, items = (table.detach().numpy() for table in model.embed())
    scores = users @ items.T
    same_block = (np.arange(USERS)[:, None] - np.arange(COLD)[None]) % 2 == 0
    within, across = scores[:, :COLD][same_block].mean(), scores[:, :COLD][~same_block].mean()
    assert within > across + 0.5
    assert evaluate(model, dataset, "test").metrics["recall@5"] > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits(name):
    dataset = block_dataset()
    one = build(name, dataset)
    losses = train(one, dataset, 2)
    other = build(name, dataset)
    assert train(other, dataset, 2) == losses
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


class NothingRead(TorchDispatchMode):
    """Refuses to copy a number of a tensor to Python: a GPU would wait for it at every step."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_reads_no_number_back(name):
    dataset = block_dataset()
    model = build(name, dataset)
    train(model, dataset, 1)
    batch = next(Sampler(dataset, 64, seed=0, with_negatives=model.uses_negatives).epoch(0))
    with NothingRead():
        sum(model.loss(batch).values()).backward()


@pytest.mark.parametrize("name", NAMES)
def test_native_and_reference_ops_agree(name):
    dataset = block_dataset()
    losses = train(build(name, dataset), dataset, 1)
    with use_backend("reference"):
        assert train(build(name, dataset), dataset, 1) == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_cold_items_are_scored_and_seen_items_are_not_recommended(name):
    dataset = block_dataset()
    model = build(name, dataset)
    train(model, dataset, 2)
    _, items = model.embed()
    assert torch.isfinite(items).all()
    result = evaluate(model, dataset, "test")
    seen = set(zip(dataset.train.users.tolist(), dataset.train.items.tolist(), strict=True))
    listed = {(int(u), int(i)) for u, row in zip(result.users, result.top_items, strict=True) for i in row if i >= 0}
    assert not listed & seen
    assert any(item >= COLD for _, item in listed)


@pytest.mark.parametrize("name", NAMES)
def test_the_dataset_stays_as_it_was(name):
    dataset = block_dataset()
    before = dataset.with_features(dict(dataset.features)).fingerprint
    train(build(name, dataset), dataset, 2)
    assert dataset.with_features(dict(dataset.features)).fingerprint == before


@pytest.mark.parametrize("name", NAMES)
def test_hiding_a_modality_changes_the_vectors_and_an_unknown_one_is_an_error(name):
    dataset = block_dataset()
    model = build(name, dataset)
    train(model, dataset, 2)
    with pytest.raises(MmfastError, match="reads no modality 'smell'"):
        model.embed(hide={"smell"})
    for modality in model.modalities:
        plain, hidden = model.embed(), model.embed(hide={modality})
        same = all(torch.allclose(a, b, atol=1e-7) for a, b in zip(plain, hidden, strict=True))
        assert same != model.content_in_scores


@pytest.mark.parametrize("name", NAMES)
def test_one_modality_alone_will_do_and_none_is_refused_clearly(name):
    dataset = block_dataset({"sound": 3})
    train(build(name, dataset), dataset, 1)
    if build(name, dataset).modalities:
        with pytest.raises(MmfastError, match="needs item features, but data set 'blocks' has none"):
            build(name, block_dataset({}))


@pytest.mark.parametrize("name", NAMES)
def test_saved_parameters_give_the_same_scores(name):
    dataset = block_dataset()
    model = build(name, dataset)
    train(model, dataset, 1)
    other = build(name, dataset)
    other.load_state_dict(model.state_dict())
    model.eval(), other.eval()
    for a, b in zip(model.embed(), other.embed(), strict=True):
        assert torch.equal(a, b)


def test_vbpr_channels_are_masked_with_their_user_preference():
    dataset = block_dataset()
    model = build("vbpr", dataset, fusion="channels")
    train(model, dataset, 5)
    users, items = model.embed(hide={"text"})
    dim = 8
    text = slice((1 + model.modalities.index("text")) * dim, (2 + model.modalities.index("text")) * dim)
    assert torch.equal(users[:, text], users[:1, text].expand(USERS, -1))
    assert torch.allclose(items[:, text], items[:1, text].expand(ITEMS, -1))
    kept, plain = slice(0, dim), model.embed()
    assert torch.equal(users[:, kept], plain[0][:, kept])


def test_vbpr_channels_literal_formula():
    dataset = block_dataset()
    model = build("vbpr", dataset, fusion="channels", reg_weight=0.3).double()
    for modality in model.modalities:
        model.set_item_features(modality, FrozenFeatures64(dataset.features[modality]))
    batch = next(Sampler(dataset, 64, seed=0).epoch(0))
    terms = model.loss(batch)
    users = torch.cat([model.users[n].weight for n in ("id", *model.modalities)], dim=1)
    parts = [model.items.weight]
    for modality in model.modalities:
        layer = model.projections[modality]
        parts.append(torch.from_numpy(dataset.features[modality]).double() @ layer.weight.T + layer.bias)
    items = torch.cat(parts, dim=1)
    u, p, n = users[batch.users], items[batch.pos_items], items[batch.neg_items]
    margin = (u * p).sum(1) - (u * n).sum(1)
    assert terms["bpr"].item() == pytest.approx(torch.log(1 + torch.exp(-margin)).mean().item(), rel=1e-12)
    squares = sum(t.square().sum() for t in (u, p, n))
    assert terms["reg"].item() == pytest.approx(0.3 * 0.5 * squares.item() / 64, rel=1e-12)


class FrozenFeatures64(FrozenFeatures):
    """Frozen features in float64, for comparison with a formula."""

    def rows(self, ids):
        return self.features.index_select(0, ids).double()


def test_features_at_length_one_are_kept_where_they_are_frozen():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]], np.float32)
    frozen, trained = FrozenFeatures(rows), TrainableFeatures(rows)
    wanted = torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]])
    assert torch.allclose(frozen.directions(), wanted) and torch.allclose(trained.directions(), wanted)
    assert frozen.directions() is frozen.directions() and not frozen.state_dict()
    assert trained.directions().requires_grad
    mean = torch.tensor([1.0, 4.0]) / 17**0.5
    assert torch.allclose(HiddenFeatures(frozen).directions(), mean.expand(3, 2))


def test_a_hidden_modality_is_mapped_as_one_row():
    source = FrozenFeatures(np.array([[1.0, 4.0], [3.0, 0.0], [5.0, 2.0]], np.float32))
    layer, seen = torch.nn.Linear(2, 4), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    plain, hidden = source.through(layer), HiddenFeatures(source).through(layer)
    assert torch.equal(plain, torch.nn.functional.linear(source.all(), layer.weight, layer.bias)) and seen == [3, 1]
    assert torch.allclose(hidden, layer(HiddenFeatures(source).all()))


def test_set_item_features_refuses_another_width():
    model = build("vbpr", block_dataset())
    with pytest.raises(MmfastError, match="feature_dim 4; the model was built for 5"):
        model.set_item_features("text", FrozenFeatures(np.zeros((ITEMS, 4), np.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_trains_under_bfloat16_autocast(name):
    dataset = block_dataset()
    batch = next(Sampler(dataset, 64, seed=0).epoch(0))
    full = build(name, dataset)
    half = build(name, dataset)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = half.loss(batch)
    sum(terms.values()).backward()
    torch.manual_seed(0)
    for term, value in full.loss(batch).items():
        assert terms[term].dtype == torch.float32
        assert terms[term].item() == pytest.approx(value.item(), rel=0.02)
    assert all(p.grad is not None for p in half.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_any_modality_name_will_do(name):
    dataset = block_dataset({"items": 3, "values": 4, "type": 2})
    model = build(name, dataset)
    losses = train(model, dataset, 2)
    assert np.isfinite(losses).all()
    assert set(model.modalities) == (set(dataset.features) if build(name, block_dataset()).modalities else set())
    for modality in model.modalities:
        plain, hidden = model.embed(), model.embed(hide={modality})
        same = all(torch.allclose(a, b, atol=1e-7) for a, b in zip(plain, hidden, strict=True))
        assert same != model.content_in_scores
    build(name, dataset).load_state_dict(model.state_dict())


def test_freedom_modality_weights():
    dataset = block_dataset()
    weights = {"image": 0.2, "sound": 0.3, "text": 1.5}
    model = build("freedom", dataset, modality_weights=weights)
    assert model.modality_weights() == pytest.approx({"image": 0.1, "sound": 0.15, "text": 0.75})
    assert model.modality_weights(frozenset({"text"})) == pytest.approx({"image": 0.4, "sound": 0.6})
    default = build("freedom", dataset).modality_weights()
    assert default == pytest.approx({"image": 0.1, "sound": 0.45, "text": 0.45})
    with pytest.raises(MmfastError, match="wanted a weight of 0 or more for each of text, image, sound"):
        build("freedom", dataset, modality_weights={"image": 1.0})


def test_items_without_features_are_nobodys_neighbours():
    dataset = block_dataset({"text": 5})
    features = dataset.features["text"].copy()
    features[4:] = 0
    few = dataset.with_features({"text": features})
    graph = build("freedom", few, k=6).item_graph()
    dense = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    dense[graph.csr.rows(), graph.csr.cols.long()] = graph.csr.entries(torch.float64)
    assert torch.equal(dense[4:].nonzero()[:, 0], dense[4:].nonzero()[:, 1] - 4)
    assert (dense[:4, :4] > 0).all() and not dense[:4, 4:].any()
    with pytest.raises(MmfastError, match="features 'text': all 24 rows are zero"):
        build("freedom", dataset.with_features({"text": np.zeros_like(features)}))
