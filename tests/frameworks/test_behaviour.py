"""What every framework of balanced modalities does on every backbone: train, or refuse in one sentence."""

from __future__ import annotations

import math

import pytest

from mmfast.errors import MmfastError
from mmfast.logs import read_log
from tests.frameworks.common import MULTIMODAL, block_run
from tests.models.test_behaviour import NAMES, block_dataset

TWO, THREE = {"image": 6, "text": 5}, {"image": 6, "sound": 3, "text": 5}
FRAMEWORKS = {
    "ckd": ({"name": "ckd", "universal_size": 50}, {"distillation"}, "weight_"),
    "gradient_blending": ({"name": "gradient_blending", "super_epoch": 2}, {"head_image", "head_text"}, "weight_"),
    "ogm": ({"name": "ogm", "ge": True}, set(), "scale_"),
}


@pytest.mark.parametrize(
    ("features", "epochs", "least"), [(TWO, 3, 0.4), (THREE, 1, 0.0)], ids=["two", "three"]
)  # recall is 0.24 at random
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", MULTIMODAL)
def test_every_multimodal_backbone_trains(name, framework, features, epochs, least, tmp_path):
    config, terms, measure = FRAMEWORKS[framework]
    run = block_run(tmp_path, name, config, block_dataset(features), train={"epochs": epochs})
    rows = read_log(run.folder)
    assert terms < set(rows[0]["loss"]) or not terms
    assert all(math.isfinite(value) for row in rows for value in row["loss"].values())
    assert {f"{measure}{m}" for m in features} <= set(rows[-1]["measures"])
    assert run.metrics["test"]["recall@5"] > least


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(MULTIMODAL)))
def test_models_of_ids_alone_are_refused_in_one_sentence(name, framework, tmp_path):
    with pytest.raises(MmfastError) as refused:
        block_run(tmp_path, name, framework)
    assert str(refused.value) == (
        f"{framework} balances the modalities of a model, and '{name}' reads none here; choose a model and data with "
        f"2 or more (model=vbpr), or leave framework={framework} out"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_modality_is_refused(framework, tmp_path):
    with pytest.raises(MmfastError, match="and 'vbpr' reads sound here"):
        block_run(tmp_path, "vbpr", framework, block_dataset({"sound": 3}))
