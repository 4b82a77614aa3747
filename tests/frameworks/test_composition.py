"""Frameworks go together where their doors differ; what does not is refused with the reason."""

from __future__ import annotations

import pytest
import torch

from mmfast.config import FrameworkConfig, build_config
from mmfast.errors import MmfastError
from mmfast.frameworks.base import Framework
from mmfast.logs import read_log
from mmfast.models.features import FeatureSource
from mmfast.registry import FRAMEWORKS
from mmfast.run import Run
from tests.frameworks.common import block_run
from tests.models.test_behaviour import block_dataset


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
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(frameworks, reason):
    with pytest.raises(MmfastError, match=reason):
        build_config({"model": "vbpr", "data": "demo", "framework": frameworks})
