"""TargetMR round every multimodal backbone: features and graph by the doors, checkpoints, resuming, parts left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmfast.config import FrameworkConfig, build_config
from mmfast.data.sampler import Sampler
from mmfast.errors import MmfastError
from mmfast.evaluate import evaluate
from mmfast.frameworks.base import Framework
from mmfast.frameworks.targetmr.objects import ItemObjects
from mmfast.frameworks.targetmr.pool import TargetFeatures
from mmfast.graph import Graph
from mmfast.models.features import FrozenFeatures
from mmfast.registry import FRAMEWORKS, MODELS
from mmfast.run import Run
from mmfast.trainer import fit
from mmfast.training import build_framework
from tests.frameworks.targetmr_toys import DIM, write_toys
from tests.models.test_behaviour import ITEMS, block_dataset

NAMES = [name for name in MODELS.names() if MODELS.get(name).__module__.startswith("mmfast.")]
BACKBONES = [name for name in NAMES if name not in ("bpr", "lightgcn", "buir")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def toys(tmp_path):
    return write_toys(tmp_path, ITEMS)


def config_of(tmp_path, framework, model="freedom", **train):
    own = {"k": 4} if "k" in MODELS.get(model).Config.model_fields else {}
    return build_config(
        {
            "model": {"name": model, "embedding_dim": 8, **own},
            "framework": framework,
            "data": {"name": "blocks"},
            "train": {"epochs": 2, "batch_size": 64, "monitor": "recall@5", "checkpoint_seconds": 0, **train},
            "evaluate": {"top_k": [5]},
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "tensorboard": False,
        }
    )


def first_batch(dataset):
    return next(Sampler(dataset, 64, seed=0).epoch(0))


@pytest.mark.parametrize("model", BACKBONES)
def test_every_backbone_trains_the_attention_and_meets_the_extended_graph(model, tmp_path, toys, capsys):
    dataset = block_dataset()
    framework = build_framework(config_of(tmp_path, toys, model), dataset)
    backbone = framework.model
    assert set(backbone.modalities) == {"text", "image", "sound"}
    sources = [backbone.item_features(m) for m in ("text", "image")]
    assert all(isinstance(s, TargetFeatures) and s.feature_dim == 2 * DIM for s in sources)
    before = 0 if backbone.graph is None else len(backbone.graph.cols)
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    assert "edges to" in capsys.readouterr().err and len(framework.edges[0]) > len(dataset.train)
    assert len(backbone.graph.cols) > before
    sum(framework.loss(first_batch(dataset)).values()).backward()
    for source in sources:
        slope = source.pool.attention.grad
        assert slope is not None and not slope[:DIM].any() and slope[DIM:].any()
        assert all(p.grad is None for p in source.graph_pool.parameters())


@pytest.mark.parametrize("model", BACKBONES)
def test_a_finished_run_opens_with_its_features_and_graph(model, tmp_path, toys):
    dataset = block_dataset()
    run = fit(config_of(tmp_path, toys, model), dataset, progress=False)
    opened = Run.load(run.folder, dataset)
    torch.manual_seed(0)
    again = evaluate(opened.model, dataset, "test", opened.config.evaluate).metrics
    assert again == run.metrics["test"]
    lines = (run.folder / "targetmr" / "targets.csv").read_text().splitlines()
    assert len(lines) == ITEMS + 1 and lines[0] == "item,object_index,word,mask"
    assert lines[4].endswith(",-1") and lines[6].split(",")[1] == "-1"  # no photo, no text


@pytest.mark.parametrize("model", ["freedom", "smore"])  # one reads rows, the other all of them
@pytest.mark.parametrize("without", [[], ["TAL"]])
def test_backbones_that_train_their_features_may_go_on_to(model, without, tmp_path, toys):
    dataset, settings = block_dataset(), {**toys, "train_features": True, "without": without}
    start = build_framework(config_of(tmp_path, settings, model), dataset).model
    constant = build_framework(config_of(tmp_path, {**settings, "train_features": False}, model), dataset).model
    run = fit(config_of(tmp_path, settings, model), dataset, progress=False)
    opened = Run.load(run.folder, dataset).model
    for modality in ("text", "image"):
        sources = [own.item_features(modality) for own in (start, constant, run.model, opened)]
        trained = dict(sources[0].named_parameters()).keys() - dict(sources[1].named_parameters()).keys()
        assert trained == ({"weight"} if without else {"delta.weight"})
        features = [source.all().detach() for source in sources]
        assert torch.equal(features[0], features[1]) and torch.equal(features[2], features[3])
        moved = features[2] - (features[0] if without else sources[2].pool(sources[2].target, sources[2].objects))
        assert bool(moved.any(0).all())
        ids = torch.tensor([0, 3, 7])
        torch.testing.assert_close(sources[2].rows(ids), features[2][ids])


def test_features_stay_constants_in_backbones_that_do_not_train_theirs(tmp_path, toys):
    settings = {**toys, "train_features": True}
    assert build_framework(config_of(tmp_path, settings, "lgmrec"), block_dataset()).model.sources["text"].delta is None


def test_objects_of_a_file_need_labels_of_a_file(tmp_path, toys):
    with pytest.raises(MmfastError, match=r"labels\.by=truth reads texts, but the objects are a file's"):
        build_framework(config_of(tmp_path, {**toys, "labels": {"by": "truth"}}), block_dataset())


def test_items_with_nothing_are_named(tmp_path, toys, capsys):
    objects = ItemObjects.load(toys["objects"]["file"])
    nothing = replace(objects, has_text=objects.has_text & (torch.arange(ITEMS) != 3))
    nothing.save(toys["objects"]["file"])
    build_framework(config_of(tmp_path, toys), block_dataset())
    assert "1 items have neither a text nor a photo and get mean targets (first: 3;" in capsys.readouterr().err


def test_resuming_repeats_every_bit(tmp_path, toys):
    dataset, config = block_dataset(), config_of(tmp_path, toys, "mgcn", epochs=4)
    whole = fit(config, dataset, progress=False)
    half = fit(config_of(tmp_path, toys, "mgcn", epochs=2), dataset, progress=False)
    resumed = fit(config, dataset, resume=half.folder, progress=False)
    assert resumed.metrics == whole.metrics
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_the_stages_are_trained_once(tmp_path, toys, monkeypatch):
    dataset, config = block_dataset(), config_of(tmp_path, toys)
    build_framework(config, dataset)
    monkeypatch.setattr("mmfast.frameworks.targetmr.stages._trained", None)
    build_framework(config, dataset)
    with pytest.raises(TypeError):
        build_framework(config.model_copy(update={"seed": 5}), dataset)


@pytest.mark.parametrize("only", ["text", "image"])
def test_one_modality_alone(only, tmp_path, toys):
    dataset = block_dataset({"text": 5})
    run = fit(config_of(tmp_path, {**toys, "modalities": [only]}, "mentor"), dataset, progress=False)
    assert run.model.modalities == (only,)
    lacking = write_toys(tmp_path, ITEMS, text=only == "text", image=only == "image")
    run = fit(config_of(tmp_path, lacking, "bm3"), dataset, progress=False)
    assert run.model.modalities == (only,)
    other = {"text": "image", "image": "text"}[only]
    with pytest.raises(MmfastError, match=f"no item has {other}"):
        build_framework(config_of(tmp_path, {**lacking, "modalities": [other]}), dataset)


@pytest.mark.parametrize("part", ["POS", "SYP", "ITS", "RRF", "TAL"])
def test_parts_left_out(part, tmp_path, toys):
    dataset = block_dataset()
    framework = build_framework(config_of(tmp_path, {**toys, "without": [part]}), dataset)
    text, image = (framework.model.item_features(m) for m in ("text", "image"))
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    extension = framework.extension
    assert (extension.prepared.selectors.image is None) == (part in ("ITS", "RRF"))
    if part == "TAL":
        assert all(isinstance(s, FrozenFeatures) and s.feature_dim == DIM for s in (text, image))
        assert framework.edges is None and extension.sources == []
    elif part == "ITS":
        assert isinstance(image, FrozenFeatures) and image.feature_dim == DIM and extension.names == ("text",)
        photos = extension.prepared.objects.photos
        assert torch.equal(image.all()[4], photos[4])
        assert torch.allclose(image.all()[3], photos[torch.arange(ITEMS) != 3].mean(0))
    else:
        assert image.feature_dim == 2 * DIM
    assert framework.config.object_rule.pos == (() if part == "POS" else ("NOUN",))
    assert bool(framework.config.object_rule.relations) == (part != "SYP")


def test_ablation_without_image_targets_on_the_data_sets_own_features(tmp_path, toys):
    dataset = block_dataset()
    settings = {**toys, "without": ["ITS"], "whole_image": "data"}
    image = build_framework(config_of(tmp_path, settings), dataset).model.item_features("image")
    assert np.array_equal(image.all().numpy(), dataset.features["image"])
    with pytest.raises(MmfastError, match="has no features 'image'"):
        build_framework(config_of(tmp_path, settings), block_dataset({"text": 3}))


def test_missing_sides_take_the_mean_target(tmp_path, toys):
    targets = build_framework(config_of(tmp_path, toys), block_dataset()).extension.prepared.targets
    for side, item in ((targets.image, 3), (targets.text, 5)):
        known = side.chosen >= 0
        assert side.chosen[item] == -1 and side.aux.counts[item] == 0
        assert torch.allclose(side.target[item], side.target[known].mean(0), atol=1e-6)


def test_messages_alone_are_extended(tmp_path, toys):
    """The positives of the loss and the masks of evaluation stay those of the data set."""
    dataset = block_dataset()
    framework = build_framework(config_of(tmp_path, {**toys, "eta": -1.0, "topk": 23, "max_edges": 10_000}), dataset)
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    assert len(framework.edges[0]) == dataset.num_users * ITEMS
    seen = []
    framework.inner.loss = lambda batch: seen.append(batch) or {}
    batch = first_batch(dataset)
    framework.loss(batch)
    assert seen[0] is batch
    result = evaluate(framework.model, dataset, "test", config_of(tmp_path, toys).evaluate)
    assert 0 < result.metrics["recall@5"] <= 1


def test_extended_positives_and_negatives(tmp_path, toys):
    dataset = block_dataset()
    options = {"extended_positives": True, "reject_extended_negatives": True}
    framework = build_framework(config_of(tmp_path, {**toys, **options}), dataset)
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    known = set(zip(*(part.tolist() for part in framework.edges), strict=True))
    batch = first_batch(dataset)
    changed = framework._changed(batch)
    pairs = zip(changed.users.tolist(), changed.pos_items.tolist(), changed.neg_items.tolist(), strict=True)
    assert all((u, p) in known and (u, n) not in known for u, p, n in pairs)
    assert changed.configured_size == batch.configured_size
    assert all(torch.isfinite(term) for term in framework.loss(batch).values())


def test_a_frozen_graph_and_refused_ones(tmp_path, toys, monkeypatch):
    dataset = block_dataset()
    framework = build_framework(config_of(tmp_path, {**toys, "freeze_graph_after_epoch": 1}), dataset)
    for epoch in range(3):
        framework.on_epoch_start(epoch, torch.Generator().manual_seed(0))
    assert framework.model.item_features("text").graph_epoch == 0
    refused = build_framework(config_of(tmp_path, {**toys, "topk": None, "max_edges": 3}), dataset)
    with pytest.raises(MmfastError, match=r"more than max_edges=3"):
        refused.on_epoch_start(0, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", ["freedom", "mgcn", "micro", "lgmrec"])
def test_item_graphs_follow_the_attention_where_asked(model, tmp_path, toys):
    dataset = block_dataset()
    framework = build_framework(config_of(tmp_path, {**toys, "refresh_item_graphs": True}, model), dataset)
    backbone = framework.model
    with torch.no_grad():
        for modality in ("text", "image"):
            backbone.item_features(modality).pool.attention.mul_(-30)
    before = {name: part for name, part in backbone.named_modules() if isinstance(part, Graph)}
    framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    after = {name: part for name, part in backbone.named_modules() if isinstance(part, Graph)}
    changed = [n for n, g in after.items() if g.num_nodes == ITEMS and not torch.equal(g.cols, before[n].cols)]
    assert bool(changed) == (model != "lgmrec") and set(before) <= set(after)
    assert torch.isfinite(sum(framework.loss(first_batch(dataset)).values()))


@pytest.mark.parametrize("changes", [{}, {"without": ["TAL"]}, {"without": ["TAL"], "train_features": True}])
def test_other_objects_than_those_of_the_checkpoint_are_refused(changes, tmp_path, toys):
    dataset = block_dataset()
    run = fit(config_of(tmp_path, {**toys, **changes}), dataset, progress=False)
    write_toys(tmp_path, ITEMS, seed=1)
    with pytest.raises(MmfastError, match="trained on other text objects"):
        Run.load(run.folder, dataset)
    write_toys(tmp_path, ITEMS + 1)
    with pytest.raises(MmfastError, match="objects of 25 items but the data set has 24"):
        Run.load(run.folder, dataset)


def test_a_model_without_features_is_refused(tmp_path, toys):
    with pytest.raises(MmfastError, match="lightgcn reads no item features"):
        build_framework(config_of(tmp_path, toys, "lightgcn"), block_dataset())
    plain = build_framework(config_of(tmp_path, []), block_dataset()).model
    with pytest.raises(MmfastError, match="was not built by"):
        FRAMEWORKS.get("targetmr")(plain)


@FRAMEWORKS.register("halved")
class Halved(Framework):
    """A framework of the loss alone, as distillation is."""

    Config = FrameworkConfig

    def loss(self, batch):
        return {name: term / 2 for name, term in super().loss(batch).items()}


def test_another_framework_goes_round_it(tmp_path, toys):
    dataset = block_dataset()
    inside = build_framework(config_of(tmp_path, toys), dataset)
    both = build_framework(config_of(tmp_path, [toys, {"name": "halved"}]), dataset)
    for framework in (inside, both):
        framework.on_epoch_start(0, torch.Generator().manual_seed(0))
    batch = first_batch(dataset)
    torch.manual_seed(0)
    plain = inside.loss(batch)
    torch.manual_seed(0)
    for name, term in both.loss(batch).items():
        assert term.item() == pytest.approx(plain[name].item() / 2)
    assert isinstance(both.model.item_features("image"), TargetFeatures)
    assert len(both.model.graph.cols) == len(inside.model.graph.cols)
