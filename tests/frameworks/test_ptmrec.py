"""PTMRec against its equations written out, and its two stages from end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmfast.cli import main
from mmfast.data.load import load_dataset
from mmfast.data.sampler import Batch, Sampler
from mmfast.errors import MmfastError
from mmfast.frameworks.base import Fit
from mmfast.frameworks.ckd import CKD
from mmfast.frameworks.ptmrec import catalogue
from mmfast.frameworks.ptmrec.catalogue import FROZEN
from mmfast.frameworks.ptmrec.export import tuned_features
from mmfast.frameworks.ptmrec.framework import FIRST, micro_batches
from mmfast.frameworks.ptmrec.source import TunedFeatures
from mmfast.frameworks.ptmrec.tuning import untuned
from mmfast.models.features import FeatureSource, FrozenFeatures
from mmfast.run import Run
from mmfast.trainer import fit
from mmfast.training import build_framework
from tests.content import tiny
from tests.frameworks.shops import ITEMS, shop_config, write_shop
from tests.test_resume import Killed, assert_same_run, killed_in_step

MODALITIES = ("image", "text")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path_factory.getbasetemp() / "ptmrec-cache"))


@pytest.fixture(scope="module")
def clip_name(tmp_path_factory):
    return f"clip:{tiny.save_clip(tmp_path_factory.mktemp('models') / 'clip')}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("data") / "shop", without_photo=(3, 8), without_text=(5,))


def prepared(shop, tmp_path, clip_name, **changes):
    """A framework as it stands before the first step of stage 2, without a first stage, prompts moved far away."""
    framework = {"variant": "full", **changes.pop("framework", {})}
    config = shop_config(shop, tmp_path, clip_name, framework=framework, **changes)
    dataset = load_dataset(config.data)
    made = build_framework(config, dataset)
    made._first_stage = lambda fit: None
    device = torch.device("cpu")
    made.prepare(Fit(config, dataset, device, tmp_path, lambda text: None, None, lambda: {"recall@5": 0.0}, True))
    for number, parameter in enumerate(made.tuning.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    made.on_epoch_end()
    batch = next(Sampler(dataset, 40, seed=1).epoch(0))
    return made, batch


def literal_rows(made, modality, items):
    """CLIP's features of some items, one at a time, each with its prompts among its own tokens."""
    from tests.frameworks.test_ptmrec_towers import literal_images, literal_texts

    prompts, inputs = made.tuning[modality].prompts, made.encoder.inputs[modality]
    rows = []
    for item in items:
        one = inputs.batch(np.array([item]), torch.device("cpu"))
        literal = literal_images if modality == "image" else literal_texts
        rows.append(literal(made.encoder.clip, prompts, one)[0])
    return torch.stack(rows)


class LiteralFeatures(FeatureSource):
    """The whole table made anew: literal rows where the batch is live, the cached table elsewhere, and the delta."""

    def __init__(self, made, modality, live):
        super().__init__()
        source = made.source(modality)
        self.clip = source.table.clone()
        known = made.encoder.inputs[modality].known
        items = [int(item) for item in live if known[item]]
        self.clip = self.clip.index_put((torch.tensor(items),), literal_rows(made, modality, items))
        self.table = self.clip if source.delta is None else self.clip + source.delta.weight
        self.num_items, self.feature_dim = self.table.shape

    def all(self):
        return self.table

    def rows(self, ids):
        return self.table[ids]

    def clip_rows(self, ids):
        return self.clip[ids]


def literal_kt(users, items, content):
    """Eq. 11-13 in float64, for one modality; the target is a constant."""
    users, items, content = users.double(), items.double(), content.double()
    target = torch.softmax(users @ items.t(), 1).detach()
    log_q = torch.log_softmax(users @ content.t(), 1)
    return (target * (target.log() - log_q)).sum() / len(users)


def literal_step(made, batch):
    """Gradients of one optimiser step: 1/count of every micro-batch's loss, everything written out."""
    model, sources = made.model, {m: made.source(m) for m in MODALITIES}
    starts = range(0, batch.size, made.config.micro_batch)
    for start in starts:
        part = slice(start, start + made.config.micro_batch)
        users, pos, neg = batch.users[part], batch.pos_items[part], batch.neg_items[part]
        small = Batch(users, pos, neg, batch.num_users, batch.num_items, made.config.micro_batch)
        live = torch.unique(torch.cat([pos, neg]) if made.config.fresh_negatives else pos)
        features = {m: LiteralFeatures(made, m, live) for m in MODALITIES}
        for modality in MODALITIES:
            model.sources[modality] = features[modality]
        total = sum(model.loss(small).values())
        for modality in MODALITIES:
            model.sources[modality] = sources[modality]
        id_users, id_items = model.id_embeddings()
        for modality in MODALITIES:
            content = made.maps[modality](features[modality].clip[pos])
            total = total + made.config.kt_weight * literal_kt(id_users[users], id_items[pos], content)
        (total / len(starts)).backward()


class Gradients(torch.optim.SGD):
    """Keeps every gradient, dense, and steps nowhere."""

    def step(self):
        self.seen = {
            id(p): None if p.grad is None else p.grad.to_dense().clone() for p in self.param_groups[0]["params"]
        }


@pytest.mark.parametrize("model", ["vbpr", "freedom", "mgcn", "smore"])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh negatives", "cached negatives"])
def test_a_step_has_the_gradients_of_the_equations(shop, tmp_path, clip_name, model, fresh):
    made, batch = prepared(
        shop, tmp_path, clip_name, model={"name": model}, framework={"kt_weight": 0.7, "fresh_negatives": fresh}
    )
    named = {name: p for name, p in made.named_parameters() if p.requires_grad}
    assert any("delta" in name for name in named) == (model != "vbpr")
    optimizer = Gradients(named.values(), lr=1.0)
    torch.manual_seed(0)  # SMORE drops out
    terms = made.step(batch, optimizer)
    assert len(list(micro_batches(batch, 32))) == 2 and "kt" in terms
    optimizer.zero_grad()
    torch.manual_seed(0)
    literal_step(made, batch)
    for name, parameter in named.items():
        ours, wanted = optimizer.seen[id(parameter)], parameter.grad
        assert (ours is None) == (wanted is None), name
        if wanted is not None:
            wanted = wanted.to_dense()
            scale = float(wanted.abs().max())
            torch.testing.assert_close(
                ours, wanted, rtol=2e-4, atol=2e-5 * scale + 1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert all(parameter.grad is None for parameter in made.encoder.clip.parameters())


@pytest.mark.parametrize("model", ["vbpr", "mgcn"])
def test_a_distilled_step_is_of_the_live_rows_micro_batch_by_micro_batch(shop, tmp_path, clip_name, model):
    made, batch = prepared(shop, tmp_path, clip_name, model={"name": model})
    outer = CKD(made, CKD.Config(universal_size=30, distillation_weight=0.5))
    shapes = (made.model.num_users, 4), (made.model.num_items, 4)
    outer.teachers = [tuple(torch.randn(*shape) for shape in shapes) for _ in MODALITIES]
    outer.active_users = torch.arange(made.model.num_users)
    named = {name: p for name, p in made.named_parameters() if p.requires_grad}
    optimizer = Gradients(named.values(), lr=1.0)
    outer.on_epoch_start(0, torch.Generator().manual_seed(0))
    assert {"kt", "distillation"} <= outer.step(batch, optimizer).keys()
    optimizer.zero_grad()
    outer.on_epoch_start(0, torch.Generator().manual_seed(0))
    sources = dict(made.model.sources.items())
    parts = list(micro_batches(batch, made.config.micro_batch))
    for part in parts:
        for modality in MODALITIES:
            made.model.sources[modality] = LiteralFeatures(made, modality, part.unique_items[0])
        (sum(outer.loss(part).values()) / len(parts)).backward()
        for modality in MODALITIES:
            made.model.sources[modality] = sources[modality]
    for parameter in named.values():
        ours, wanted = optimizer.seen[id(parameter)], parameter.grad.to_dense()
        scale = float(wanted.abs().max())
        torch.testing.assert_close(ours, wanted, rtol=2e-4, atol=2e-5 * scale + 1e-6)


@pytest.mark.parametrize("detach", [False, True])
def test_the_transfer_stops_gradients_where_the_equations_do(shop, tmp_path, clip_name, detach):
    made, batch = prepared(shop, tmp_path, clip_name, framework={"detach_user": detach})
    users, items = (table.detach().clone().requires_grad_() for table in made.model.id_embeddings())
    made.model.id_embeddings = lambda: (users, items)
    with made.live(batch):
        made.transfer(batch).backward()
    assert items.grad is None and (users.grad is None) == detach
    for modality in MODALITIES:
        assert made.maps[modality].weight.grad.abs().sum() > 0
        assert made.tuning[modality].prompts.grad.abs().sum() > 0
        assert made.source(modality).delta.weight.grad is None
    assert all(parameter.grad is None for parameter in made.encoder.clip.parameters())


def test_a_micro_batch_without_a_picture_or_of_one_row_has_less_to_transfer(shop, tmp_path, clip_name):
    made, batch = prepared(shop, tmp_path, clip_name)
    rows = torch.tensor([0, 1])
    bare = Batch(batch.users[rows], torch.tensor([3, 8]), torch.tensor([3, 8]), batch.num_users, ITEMS, 32)
    with made.live(bare):
        made.transfer(bare).backward()
    assert made.maps["image"].weight.grad is None and made.maps["text"].weight.grad.abs().sum() > 0
    one = next(micro_batches(batch, 1))
    assert "kt" not in made.loss(one)


def test_options_of_the_transfer(shop, tmp_path, clip_name):
    made, batch = prepared(shop, tmp_path, clip_name, framework={"id_vectors": "propagated", "kt_temperature": 0.5})
    users, items = made.model.embed()
    content = {m: made.maps[m](made.source(m).clip_rows(batch.pos_items)) for m in MODALITIES}
    scaled = 2 * users[batch.users]
    wanted = sum(literal_kt(scaled, items[batch.pos_items], content[m]) for m in MODALITIES)
    torch.testing.assert_close(made.transfer(batch).double(), wanted, rtol=1e-4, atol=1e-6)
    made.config = made.config.model_copy(update={"kt_reduction": "mean"})
    torch.testing.assert_close(made.transfer(batch).double(), wanted / batch.size, rtol=1e-4, atol=1e-6)


def test_a_frozen_recommender_leaves_prompts_and_maps_to_train(shop, tmp_path, clip_name):
    made, _ = prepared(shop, tmp_path, clip_name, framework={"freeze_recommender": True})
    trained = {name.partition(".")[0] for name, p in made.named_parameters() if p.requires_grad}
    assert trained == {"tuning", "maps"}


def test_feature_and_delta_are_a_trainable_feature():
    features = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    plain = FrozenFeatures(features)
    source = TunedFeatures(plain.all(), trainable=True)
    ids, weight = torch.tensor([1, 4, 6]), torch.randn(3, 5)
    torch.testing.assert_close(source.all(), plain.all())
    torch.testing.assert_close(source.project(ids, weight), plain.rows(ids) @ weight.t())
    live = torch.randn(2, 5, requires_grad=True)
    source.set_live(torch.tensor([4, 7]), live)
    with torch.no_grad():
        source.delta.weight += 1
    whole = source.all()
    torch.testing.assert_close(whole[[4, 7]], live + 1)
    torch.testing.assert_close(whole[[0, 8]], plain.all()[[0, 8]] + 1)
    torch.testing.assert_close(source.rows(ids), whole[ids])
    torch.testing.assert_close(source.project(ids, weight), whole[ids] @ weight.t())
    source.project(ids, weight).sum().backward()
    assert live.grad[0].abs().sum() > 0 and live.grad[1].abs().sum() == 0
    assert source.delta.weight.grad.to_dense().abs().sum(1).nonzero()[:, 0].tolist() == [1, 4, 6]


def test_stage_1_trains_on_frozen_clip(shop, tmp_path, clip_name):
    config = shop_config(shop, tmp_path, clip_name)
    model = build_framework(config, load_dataset(config.data)).model
    made, _ = prepared(shop, tmp_path, clip_name)
    for modality, missing in (("image", [3, 8]), ("text", [5])):
        frozen = made.encoder.table(modality, untuned(made.encoder.clip))
        assert torch.equal(model.item_features(modality).all(), frozen)
        assert np.load(tmp_path / FROZEN / f"{modality}-missing.npy").tolist() == missing


@pytest.mark.parametrize("model", ["vbpr", "freedom"])
def test_both_stages_from_end_to_end(shop, tmp_path, clip_name, monkeypatch, model):
    config = shop_config(shop, tmp_path, clip_name, model={"name": model}, name="whole")
    run = fit(config, progress=False)
    stages = run.metrics["stages"]
    assert stages.keys() == {"first", "start", "second"}
    better = max(("first", "second"), key=lambda stage: (stages[stage]["valid"]["recall@5"], stage == "second"))
    assert run.metrics["stage"] == better and run.metrics["valid"] == stages[better]["valid"]
    first = Run.load(run.folder / FIRST)
    assert first.metrics["valid"] == stages["first"]["valid"]
    monkeypatch.setattr(catalogue, "load_clip", None)
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "empty"))
    again = Run.load(run.folder)
    for ours, theirs in zip(run.model.embed(), again.model.embed(), strict=True):
        assert torch.equal(ours, theirs)
    rows = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert all(row["loss"]["kt"] > 0 for row in rows)


def test_the_better_stage_is_the_result(shop, tmp_path, clip_name, monkeypatch):
    from mmfast.frameworks.ptmrec.framework import PTMRec

    def spoil(self, batch, optimizer):
        with torch.no_grad():
            for table in self.model.id_embeddings():
                table.zero_()
        return {"bpr": torch.zeros(())}

    step = PTMRec.step
    monkeypatch.setattr(PTMRec, "step", lambda self, *a: spoil(self, *a) if self.tuned else step(self, *a))
    config = shop_config(shop, tmp_path, clip_name, name="spoilt", train={"learning_rate": 0.05})
    run = fit(config, progress=False)
    stages = run.metrics["stages"]
    if stages["first"]["valid"]["recall@5"] > stages["second"]["valid"]["recall@5"]:
        assert run.metrics["stage"] == "first" and run.metrics["from"] == FIRST
        first = Run.load(run.folder / FIRST)
        assert all(torch.equal(a, b) for a, b in zip(run.model.embed(), first.model.embed(), strict=True))
        assert all(
            torch.equal(a, b) for a, b in zip(Run.load(run.folder).model.embed(), run.model.embed(), strict=True)
        )
    else:
        pytest.fail("a spoilt stage 2 was not worse")


@pytest.mark.parametrize(("stage", "moment"), [(1, 5), (2, 1), (2, 3)])
def test_a_run_killed_in_either_stage_resumes_to_the_same_bits(shop, tmp_path, clip_name, monkeypatch, stage, moment):
    from mmfast.frameworks.ptmrec.framework import PTMRec

    whole = fit(shop_config(shop, tmp_path, clip_name, name="whole"), progress=False)
    if stage == 1:
        killed_in_step(monkeypatch, moment)
    else:
        step, steps = PTMRec.step, iter(range(100))

        def dying(self, batch, optimizer):
            if self.tuned and next(steps) == moment:
                raise Killed
            return step(self, batch, optimizer)

        monkeypatch.setattr(PTMRec, "step", dying)
    with pytest.raises(Killed):
        fit(shop_config(shop, tmp_path, clip_name, name="killed"), progress=False)
    monkeypatch.undo()
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "another-cache"))
    resumed = fit(None, resume=tmp_path / "killed", progress=False)
    assert_same_run(whole.folder, resumed.folder)
    assert_same_run(whole.folder / FIRST, resumed.folder / FIRST)


def test_too_little_memory_says_what_to_do(shop, tmp_path, clip_name, monkeypatch):
    made, batch = prepared(shop, tmp_path, clip_name)

    def full(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(made.encoder, "rows", full)
    with pytest.raises(MmfastError, match=r"too little memory for micro-batches of 32; lower framework.micro_batch"):
        made.step(batch, torch.optim.SGD(made.tuning.parameters(), lr=1.0))


@pytest.mark.parametrize(
    ("variant", "stages", "terms"),
    [("clip-frozen", None, False), ("clip-prompt", {"start", "second"}, False),
     ("without-loss", {"first", "start", "second"}, False)],
)  # fmt: skip
def test_variants(shop, tmp_path, clip_name, variant, stages, terms):
    config = shop_config(shop, tmp_path, clip_name, framework={"variant": variant}, name=variant)
    run = fit(config, progress=False)
    assert set(run.metrics.get("stages", ())) == (stages or set())
    assert (run.folder / FIRST).is_dir() == ("first" in (stages or ()))
    row = json.loads((run.folder / "log.jsonl").read_text().splitlines()[0])
    assert ("kt" in row["loss"]) == terms


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_lora_and_adapters_train(shop, tmp_path, clip_name, method):
    made, batch = prepared(
        shop, tmp_path, clip_name, framework={"tuning": {"method": method}, "precision": "bfloat16", "recompute": True}
    )
    optimizer = Gradients([p for p in made.parameters() if p.requires_grad], lr=1.0)
    made.step(batch, optimizer)
    moved = [optimizer.seen[id(p)] for p in made.tuning.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in moved)


def test_tuned_features_serve_any_other_model(shop, tmp_path, clip_name, capsys):
    run = fit(shop_config(shop, tmp_path, clip_name, model={"name": "vbpr"}, name="tuned"), progress=False)
    assert main(["features", "tuned", str(run.folder), "--out", str(tmp_path / "copy")]) == 0
    assert "image: 20 x 16 float32" in capsys.readouterr().out
    copy = load_dataset(str(tmp_path / "copy"))
    for modality in MODALITIES:
        assert np.array_equal(copy.features[modality], run.model.sources[modality].table.numpy())
    assert copy.missing["image"].tolist() == [3, 8]
    assert copy.manifest["features"]["text"]["encoder"] == f"{clip_name} tuned by prompts with vbpr"
    config = shop_config(tmp_path / "copy", tmp_path, clip_name, model={"name": "mgcn"}, name="other")
    other = fit(config.model_copy(update={"framework": ()}), progress=False)
    assert other.model.sources["image"].feature_dim == 16
    with pytest.raises(MmfastError, match="was not trained with ptmrec"):
        tuned_features(other)
    with pytest.raises(MmfastError, match="the run knows 20 items and the folder has 1, or others"):
        tuned_features(run)["text"].write(tmp_path / "x.npy", "text", np.zeros(1), run.dataset.item_ids[:1])


def test_what_cannot_work_is_refused(shop, tmp_path, clip_name):
    with pytest.raises(MmfastError, match="LightGCN reads no features image, text"):
        fit(shop_config(shop, tmp_path, clip_name, model={"name": "lightgcn"}), progress=False)
    with pytest.raises(MmfastError, match="encoder 'torchvision:resnet50' is no CLIP model"):
        fit(shop_config(shop, tmp_path, "torchvision:resnet50"), progress=False)
