"""Frameworks go together where their doors differ; what does not is refused with the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmfast.checkpoint import load_checkpoint
from mmfast.config import FrameworkConfig, build_config
from mmfast.data.load import load_dataset
from mmfast.data.sampler import Sampler
from mmfast.errors import MmfastError
from mmfast.evaluate import evaluate
from mmfast.frameworks.base import Framework
from mmfast.frameworks.ptmrec.framework import FIRST
from mmfast.frameworks.targetmr.pool import TargetFeatures
from mmfast.logs import read_log
from mmfast.models.features import FeatureSource
from mmfast.registry import FRAMEWORKS
from mmfast.run import LAST, Run
from mmfast.trainer import fit
from mmfast.training import build_framework
from tests.frameworks.common import block_config, block_run
from tests.frameworks.shops import shop_config, write_shop
from tests.frameworks.targetmr_toys import write_toys
from tests.models.test_behaviour import ITEMS, block_dataset
from tests.test_resume import Killed, assert_same_run


class Scaled(FeatureSource):
    """Features times a trained number."""

    def __init__(self, source: FeatureSource) -> None:
        super().__init__()
        self.num_items, self.feature_dim, self.source = source.num_items, source.feature_dim, source
        self.factor = torch.nn.Parameter(torch.ones(()))

    def rows(self, ids):
        return self.factor * self.source.rows(ids)

    def all(self):
        return self.factor * self.source.all()


@FRAMEWORKS.register("test-scaled")
class ScaledFeatures(Framework):
    """Puts trained factors before every modality."""

    class Config(FrameworkConfig):
        """No options."""

    doors = ("features", "graph")

    def __init__(self, inner, config=None):
        super().__init__(inner, config)
        for modality in self.model.modalities:
            self.model.set_item_features(modality, Scaled(self.model.item_features(modality)))

    def loss(self, batch):
        sources = [self.model.item_features(m) for m in self.model.modalities]
        return {**super().loss(batch), "factor": 0.1 * sum((s.factor - 2) ** 2 for s in sources if type(s) is Scaled)}


OUTER = {
    "ckd": ({"name": "ckd", "universal_size": 20, "distillation_weight": 0.1}, "distillation"),
    "gradient_blending": ({"name": "gradient_blending", "super_epoch": 1}, "head_image"),
    "ogm": ({"name": "ogm", "alpha": 0.5}, "scale_image"),
}


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "cache"))


def told(run):
    row = read_log(run.folder)[-1]
    return {**row["loss"], **row.get("measures", {})}


def opens_as_it_was(run, dataset):
    opened = Run.load(run.folder, dataset)
    torch.manual_seed(0)
    assert evaluate(opened.model, dataset, "test", run.config.evaluate).metrics == run.metrics["test"]
    return opened


@pytest.mark.parametrize("model", ["vbpr", "freedom", "mgcn"])
@pytest.mark.parametrize("outer", OUTER)
def test_each_goes_round_targetmr(outer, model, tmp_path, own_cache):
    dataset, (settings, term) = block_dataset({"sound": 3}), OUTER[outer]
    run = block_run(tmp_path, model, [write_toys(tmp_path, ITEMS), settings], dataset)
    assert term in told(run) and all(map(math.isfinite, told(run).values()))
    opened = opens_as_it_was(run, dataset)
    assert all(isinstance(opened.model.sources[m], TargetFeatures) for m in ("image", "text"))
    assert len(opened.model.extension.apply(opened.model)[0]) > len(dataset.train)
    if outer == "ckd":
        teacher = Run.load(run.folder / "teacher-image", dataset)
        assert [section.name for section in teacher.config.framework] == ["targetmr", "masked"]
        assert teacher.model.masked == {"text", "sound"}


def test_distillation_sees_the_batch_that_targetmr_makes(tmp_path, own_cache):
    toys = {**write_toys(tmp_path, ITEMS), "extended_positives": True}
    dataset = block_dataset({"image": 6, "text": 5})
    both = build_framework(block_config(tmp_path, "vbpr", [toys, "ckd"]), dataset)
    both.inner.on_epoch_start(0, torch.Generator().manual_seed(0))
    seen = []
    batch = next(Sampler(dataset, 64, seed=0).epoch(0))
    both.backward(batch, lambda part: seen.append(part) or {"bpr": both.model.loss(part)["bpr"]})
    assert [part.size for part in seen] == [128]


@pytest.mark.parametrize("model", ["vbpr", "freedom", "mgcn"])
@pytest.mark.parametrize("outer", OUTER)
def test_each_goes_round_ptmrec(outer, model, tmp_path, own_cache, clip_folder):
    shop, (settings, term) = write_shop(tmp_path / "shop", without_photo=(3, 8)), OUTER[outer]
    config = shop_config(shop, tmp_path, f"clip:{clip_folder}", model={"name": model}, around=[settings], name="both")
    run = fit(config, progress=False)
    assert {"kt", term} <= told(run).keys() and all(map(math.isfinite, told(run).values()))
    assert run.metrics["stages"].keys() == {"first", "start", "second"}
    dataset = load_dataset(config.data)
    opened = opens_as_it_was(run, dataset)
    assert 0 <= evaluate(opened.model, dataset, "test", config.evaluate, hide=["image"]).metrics["recall@5"] <= 1
    first = Run.load(run.folder / FIRST, dataset)
    assert [section.name for section in first.config.framework] == ["ptmrec"]
    if outer == "ckd":
        folder = run.folder / "teacher-text"
        for place in (folder, folder / FIRST):
            teacher = Run.load(place, dataset)
            assert [section.name for section in teacher.config.framework] == ["ptmrec", "masked"]
            assert teacher.model.masked == {"image"}
        names = load_checkpoint(folder / LAST).tensors.keys()
        assert {n.split("tuning.")[1] for n in names if "tuning." in n} == {"text.prompts"}


def test_a_modality_that_clip_does_not_see_has_a_teacher_without_it(tmp_path, own_cache, clip_folder):
    shop = write_shop(tmp_path / "shop")
    dataset = load_dataset(str(shop))
    sound = np.random.default_rng(0).normal(size=(dataset.num_items, 3)).astype(np.float32)
    changes = {"model": {"name": "vbpr"}, "around": [OUTER["ckd"][0]], "name": "three"}
    config = shop_config(shop, tmp_path, f"clip:{clip_folder}", **changes)
    run = fit(config, dataset.with_features({"sound": sound}), progress=False)
    teacher = Run.load(run.folder / "teacher-sound", run.dataset)
    assert teacher.model.masked == {"image", "text"} and not (teacher.folder / FIRST).exists()
    assert {"weight_sound", "weight_image", "kt"} <= told(run).keys()


@pytest.mark.parametrize("part", ["teacher-image", "stage 2"])
def test_a_distilled_stage_2_killed_anywhere_repeats_every_bit(part, tmp_path, own_cache, clip_folder, monkeypatch):
    shop = write_shop(tmp_path / "shop")

    def config(name):
        changes = {"model": {"name": "vbpr"}, "around": [OUTER["ckd"][0], OUTER["ogm"][0]], "name": name}
        return shop_config(shop, tmp_path, f"clip:{clip_folder}", **changes)

    whole = fit(config("whole"), progress=False)
    step = Framework.step

    def dying(self, batch, optimizer):
        outermost = {"teacher-image": "masked", "stage 2": "ogm"}[part]
        if getattr(type(self), "registry_name", "") == outermost and next(steps) == 3:
            raise Killed
        return step(self, batch, optimizer)

    steps = iter(range(100))
    monkeypatch.setattr(Framework, "step", dying)
    with pytest.raises(Killed):
        fit(config("killed"), progress=False)
    monkeypatch.undo()
    monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / "another-cache"))
    resumed = fit(None, resume=tmp_path / "killed", progress=False)
    assert_same_run(whole.folder, resumed.folder)
    assert_same_run(whole.folder / FIRST, resumed.folder / FIRST)


@pytest.mark.parametrize("outer", ["ckd", "ogm", "gradient_blending"])
def test_a_framework_of_the_features_goes_under_each(outer, tmp_path):
    dataset = block_dataset({"image": 6, "text": 5})
    run = block_run(tmp_path, "vbpr", ["test-scaled", outer], dataset)
    assert {"bpr", "factor"} <= set(read_log(run.folder)[-1]["loss"])
    opened = Run.load(run.folder, dataset)
    factors = [opened.model.sources[m].factor.item() for m in ("image", "text")]
    assert all(abs(factor - 1) > 1e-3 for factor in factors)
    if outer == "ckd":
        teacher = Run.load(run.folder / "teacher-image", dataset)
        assert [section.name for section in teacher.config.framework] == ["test-scaled", "masked"]
        assert teacher.model.masked == {"text"} and isinstance(teacher.model.sources["image"], Scaled)


def test_a_loss_and_gradients_go_together(tmp_path):
    run = block_run(tmp_path, "mgcn", ["ckd", "ogm"], block_dataset({"image": 6, "text": 5}))
    assert {"weight_image", "scale_image"} <= set(read_log(run.folder)[-1]["measures"])


@pytest.mark.parametrize("outer", ["ckd", "gradient_blending", "ogm"])
def test_modalities_hidden_from_every_pass_are_no_part_of_the_balance(outer, tmp_path):
    inner = {"name": "masked", "hide": ["sound"]}
    run = block_run(tmp_path, "vbpr", [inner, outer])
    names = [name for name in read_log(run.folder)[-1]["measures"] if "weak" not in name]
    assert {name.partition("_")[2] for name in names} <= {"text", "image", "all"}
    with pytest.raises(MmfastError, match=f"{outer} balances the modalities of a model, and 'vbpr' reads text here"):
        block_run(tmp_path, "vbpr", [{"name": "masked", "hide": ["sound", "image"]}, outer])
    if outer == "ckd":
        assert Run.load(run.folder / "teacher-text", block_dataset()).model.masked == {"image", "sound"}


@pytest.mark.parametrize(
    ("frameworks", "reason"),
    [
        (
            ["ckd", "gradient_blending"],
            "ckd and gradient_blending do not go together: each scores triples with modalities",
        ),
        (["test-scaled", "test-scaled"], "do not go together: each puts its own item features behind the model's"),
        (["ogm", "ogm"], "ogm and ogm do not go together: each scales gradients"),
        (
            ["ckd", "test-scaled"],
            r"\[ckd, test-scaled\] is the wrong way round: .* write framework=\[test-scaled, ckd\]",
        ),
        (["ckd", "masked"], r"write framework=\[masked, ckd\], outermost last"),
        (["ptmrec", "targetmr"], "ptmrec and targetmr do not go together: each puts its own item features behind"),
        (["ckd", "ptmrec"], r"ptmrec puts its own item features .* write framework=\[ptmrec, ckd\]"),
        (["ptmrec", "ckd", "gradient_blending"], "ckd and gradient_blending do not go together"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(frameworks, reason):
    with pytest.raises(MmfastError, match=reason):
        build_config({"model": "vbpr", "data": "demo", "framework": frameworks})
