"""Backbones without golden numbers against their formulas, transcribed literally with dense matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmfast.data.dataset import Dataset
from mmfast.data.sampler import Sampler
from mmfast.models.features import FrozenFeatures
from mmfast.registry import MODELS
from tests.models.test_behaviour import ITEMS, USERS, block_dataset

DIM = 6


class Features64(FrozenFeatures):
    """Frozen features in float64."""

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        return self.features.index_select(0, ids).double()

    def all(self) -> torch.Tensor:
        return self.features.double()


def build(name: str, dataset: Dataset, **options):
    entry = MODELS.get(name)
    config = entry.Config(name=name, embedding_dim=DIM, **options)
    model = entry(config, dataset, torch.Generator().manual_seed(5)).double()
    for modality in model.modalities:
        model.set_item_features(modality, Features64(dataset.features[modality]))
    return model


def one_batch(dataset: Dataset):
    return next(Sampler(dataset, 64, seed=0).epoch(0))


def raw(dataset: Dataset) -> dict[str, torch.Tensor]:
    return {m: torch.tensor(x).double() for m, x in dataset.features.items()}


def adjacency(dataset: Dataset) -> torch.Tensor:
    dense = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    users, items = torch.tensor(dataset.train.users).long(), torch.tensor(dataset.train.items).long()
    dense[users, USERS + items] = 1
    return dense + dense.t()


def light_gcn(dense: torch.Tensor, x: torch.Tensor, num_layers: int) -> torch.Tensor:
    layers = [x]
    for _ in range(num_layers):
        layers.append(dense @ layers[-1])
    return torch.stack(layers).mean(0)


def symmetric(dense: torch.Tensor) -> torch.Tensor:
    scale = dense.sum(1).rsqrt().nan_to_num(posinf=0.0)
    return scale[:, None] * dense * scale


def self_loops(dense: torch.Tensor) -> torch.Tensor:
    looped = dense + torch.eye(len(dense))
    return looped / looped.sum(1, keepdim=True)


def nearest(x: torch.Tensor, k: int) -> torch.Tensor:
    cosine = F.normalize(x) @ F.normalize(x).t()
    return cosine * torch.zeros_like(cosine).scatter(1, cosine.topk(k).indices, 1.0)


def by_row_sums(weights: torch.Tensor) -> torch.Tensor:
    scale = weights.sum(1).rsqrt()
    return scale[:, None] * weights * scale


def half_square(batch, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    blocks = (users[batch.users], items[batch.pos_items], items[batch.neg_items])
    return 0.5 * sum(block.square().sum() for block in blocks) / batch.configured_size


def bpr(batch, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    margin = (users[batch.users] * (items[batch.pos_items] - items[batch.neg_items])).sum(1)
    return -F.logsigmoid(margin).mean()


def same(terms: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], model) -> None:
    """The terms are equal, and so are the gradients of their sum; graph scales and cosines are kept in float32."""
    assert set(terms) == set(wanted)
    for name, term in wanted.items():
        assert terms[name].item() == pytest.approx(term.item(), rel=1e-6), name
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(sum(terms.values()), parameters, allow_unused=True)
    theirs = torch.autograd.grad(sum(wanted.values()), parameters, allow_unused=True)
    largest = max(grad.abs().max().item() for grad in theirs if grad is not None)
    for got, want in zip(ours, theirs, strict=True):
        if want is None:
            assert got is None or not (got.to_dense() if got.is_sparse else got).any()
        else:
            got = got.to_dense() if got.is_sparse else got
            assert (got - want).abs().max() <= 1e-6 * largest


@pytest.mark.parametrize("variant", ["id", "nb"])
def test_buir(variant):
    dataset = block_dataset()
    model = build("buir", dataset, variant=variant, num_layers=2)
    model.target.add_(0.1 * torch.randn(model.target.shape, generator=torch.Generator().manual_seed(1)))
    batch = one_batch(dataset)
    dense = symmetric(adjacency(dataset))

    def encode(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        final = table if variant == "id" else light_gcn(dense, table, 2)
        return final[batch.users], final[USERS + batch.pos_items]

    q = model.predictor
    (user, item), (user_target, item_target) = encode(model.nodes.weight), encode(model.target)
    loss = 2 - 2 * F.cosine_similarity(q(user), item_target) + 2 - 2 * F.cosine_similarity(q(item), user_target)
    same(model.loss(batch), {"bootstrap": loss.mean()}, model)

    final = model.nodes.weight if variant == "id" else light_gcn(dense, model.nodes.weight, 2)
    users, items = final[:USERS], final[USERS:]
    got_users, got_items = model.embed()
    assert torch.allclose(got_users @ got_items.t(), q(users) @ items.t() + users @ q(items).t(), rtol=1e-6)
    before = model.target.clone()
    model.after_step()
    assert torch.allclose(model.target, 0.995 * before + 0.005 * model.nodes.weight)


def test_buir_drops_entries_anew_and_not_at_evaluation():
    dataset = block_dataset()
    model = build("buir", dataset, edge_dropout=True)
    torch.manual_seed(0)
    first, second = (model.forward_graph().csr.entries(torch.float64) for _ in range(2))
    assert not torch.equal(first, second)
    full = model.graph.csr.entries(torch.float64)
    kept = first != 0
    ratio = (first[kept] / full[kept]).unique()
    assert 0 < (~kept).sum() < len(kept) / 3 and torch.allclose(ratio, ratio[:1])
    model.eval()
    assert model.forward_graph() is model.graph


@pytest.mark.parametrize("fusion", ["sum", "channels"])
def test_deepstyle(fusion):
    dataset = block_dataset()
    model = build("deepstyle", dataset, fusion=fusion, reg_weight=0.2)
    model.category.copy_(torch.arange(ITEMS) % 3)
    model.categories = type(model.categories)([3], DIM, "xavier_uniform", torch.Generator().manual_seed(2)).double()
    batch, content = one_batch(dataset), raw(dataset)
    parts = [model.items.weight - model.categories.weight[model.category]]
    for modality in model.modalities:
        layer = model.projections[modality]
        parts.append(content[modality] @ layer.weight.t() + (0 if layer.bias is None else layer.bias))
    names = ["id", *model.modalities] if fusion == "channels" else ["id"]
    users = torch.cat([model.users[name].weight for name in names], 1)
    items = torch.cat(parts, 1) if fusion == "channels" else sum(parts)
    wanted = {"bpr": bpr(batch, users, items), "reg": 0.2 * half_square(batch, users, items)}
    same(model.loss(batch), wanted, model)
    got = model.embed()
    assert torch.allclose(got[0] @ got[1].t(), users @ items.t())


def test_micro():
    dataset = block_dataset()
    model = build("micro", dataset, k=4, num_item_layers=2, original_weight=0.7, train_features=False)
    batch, content = one_batch(dataset), raw(dataset)
    views = {}
    for modality in model.modalities:
        layer = model.projections[modality]
        learned = by_row_sums(nearest(content[modality] @ layer.weight.t() + layer.bias, 4))
        graph = 0.3 * learned + 0.7 * by_row_sums(nearest(content[modality], 4))
        views[modality] = graph @ (graph @ model.nodes.weight[USERS:])
    hidden, out = model.query.hidden, model.query.out
    logits = torch.cat(
        [torch.tanh(view @ hidden.weight.t() + hidden.bias) @ out.weight.t() for view in views.values()], 1
    )
    shares = torch.softmax(logits, 1)
    fused = sum(shares[:, m : m + 1] * view for m, view in enumerate(views.values()))
    final = light_gcn(self_loops(adjacency(dataset)), model.nodes.weight, 2)
    users, items = final[:USERS], final[USERS:] + F.normalize(fused)

    def contrast(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        within = torch.exp(F.normalize(a) @ F.normalize(a).t() / 0.5)
        across = torch.exp(F.normalize(a) @ F.normalize(b).t() / 0.5)
        return -torch.log(across.diag() / (within.sum(1) - within.diag() + across.sum(1))).mean()

    wanted = {"bpr": bpr(batch, users, items), "reg": 1e-5 * half_square(batch, users, items)}
    wanted |= {f"cl_{m}": 0.03 * contrast(view, fused) for m, view in views.items()}
    first = model.loss(batch)
    same(first, wanted, model)
    again = model.loss(batch)  # the graphs are reused, without a gradient to the projections
    assert {k: v.item() for k, v in again.items()} == pytest.approx({k: v.item() for k, v in first.items()}, rel=1e-9)
    layer = model.projections["text"].weight
    assert torch.autograd.grad(sum(again.values()), [layer], allow_unused=True) == (None,)
    got = model.embed()
    assert torch.allclose(got[0] @ got[1].t(), users @ items.t(), rtol=1e-5)


THRESHOLD = 0.06


def ego_content(model, modality: str, x: dict[str, torch.Tensor], edges: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return EgoGCN's modulated and twice routed vectors of a modality, and the share of strong edges."""

    def soft(logits: torch.Tensor) -> torch.Tensor:
        return torch.softmax(logits.masked_fill(edges == 0, -torch.inf), 1).nan_to_num(0.0)

    own = x[modality]
    strong = soft(own @ own.t()) > THRESHOLD
    if model.config.modulation == "hard":
        message = torch.where(strong[..., None], sum(x.values())[None] / len(x), own[None])  # [to, from, D]
    else:
        gated = [torch.sigmoid(model.gates[f"{modality}<{o}"](x[o])) * x[o] for o in x if o != modality]
        message = ((own + sum(gated)) / len(x))[None].expand(len(edges), -1, -1)
    weight = soft((own[:, None] * message).sum(2))
    out = F.normalize((weight[..., None] * message).sum(1))
    for _ in range(2):
        out = F.normalize(out + soft(out @ out.t()) @ out)
    return out, strong[edges > 0].double().mean().item()


@pytest.mark.parametrize("modulation", ["soft", "hard"])
def test_egogcn(modulation):
    dataset = block_dataset()
    options = {"modulation": modulation, "threshold": THRESHOLD, "num_routing": 2, "reg_weight": 0.3}
    model = build("egogcn", dataset, normalise_preferences=False, **options)
    batch, content, edges = one_batch(dataset), raw(dataset), adjacency(dataset)
    x = {}
    for m, layer in model.projections.items():
        items = F.normalize(F.leaky_relu(content[m] @ layer.weight.t() + layer.bias, 0.01))
        x[m] = torch.cat([model.preferences[m].weight, items])
    parts = {m: ego_content(model, m, x, edges) for m in x}
    shares = {m: share for m, (_, share) in parts.items()}
    assert all(0.05 < share < 0.95 for share in shares.values())  # both kinds of message occur
    assert model.modulated_share() == pytest.approx(shares)
    dense, z0 = symmetric(edges), F.normalize(model.nodes.weight)
    final = torch.cat([z0 + dense @ z0 + 2 * dense @ (dense @ z0), *(part for part, _ in parts.values())], 1)
    users, items = final[:USERS], final[USERS:]
    margin = (users[batch.users] * (items[batch.pos_items] - items[batch.neg_items])).sum(1)
    z_users, z_items = model.nodes.weight[:USERS], model.nodes.weight[USERS:]
    stacked_users = torch.cat([z_users[batch.users]] * 2)
    stacked_items = torch.cat([z_items[batch.pos_items], z_items[batch.neg_items]])
    penalty = (stacked_users.square() + stacked_items.square()).mean()
    penalty = penalty + sum(model.preferences[m].weight[batch.users].square().mean() for m in x)
    same(model.loss(batch), {"bpr": -torch.log(torch.sigmoid(margin)).mean(), "reg": 0.3 * penalty}, model)
    got_users, got_items = model.embed()
    assert torch.allclose(got_users @ got_items.t(), users @ items.t(), rtol=1e-5)


def test_egogcn_writes_unit_rows_into_the_preferences_in_training_alone():
    dataset = block_dataset()
    model = build("egogcn", dataset)
    before = model.preferences["text"].weight.detach().clone()
    model.eval()
    model.embed()
    assert torch.equal(model.preferences["text"].weight, before)
    model.train()
    model.loss(one_batch(dataset))
    assert torch.allclose(model.preferences["text"].weight.norm(dim=1), torch.ones(USERS, dtype=torch.float64))


def test_lirdrec_schedules_give_the_weights_of_the_table():
    from mmfast.models.lirdrec import schedule_weights

    code = [0.9448, 0.9327, 0.9099, 0.8689, 0.7964, 0.6752, 0.4986, 0.2997, 0.1422, 0.0547]
    eq19 = [0.9448, 0.8269, 0.6215, 0.4008, 0.2263, 0.1144, 0.0526, 0.0220, 0.0084, 0.0029]
    for schedule, wanted in (("code", code), ("eq19", eq19)):
        got = [schedule_weights(schedule, 0.95, 0.9, n, 3)[0] for n in range(1, 11)]
        assert np.round(got, 4).tolist() == wanted
    model = build("lirdrec", block_dataset(), tau=0.95)
    assert model.network_share.tolist() == pytest.approx([0.95] * 4)
    model.on_epoch_start(6, torch.Generator())
    assert model.network_share.tolist() == pytest.approx([code[6]] * 4, abs=1e-4)
    alg2 = [np.round(schedule_weights("alg2", 0.95, 0.9, n, 3), 3).tolist() for n in (1, 2, 3)]
    assert alg2 == [[0.945, 0.75, 0.598], [0.452, 0.286, 0.184], [0.108, 0.056, 0.03]]
