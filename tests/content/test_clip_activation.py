"""The activation of CLIP models: weights that were trained with quick-GELU never run with GELU without a word."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from mmfast.content import encode_clip
from mmfast.content.encoders import EncodeConfig, load_encoder
from mmfast.content.torchvision_ops import prepare_torchvision
from mmfast.errors import MmfastError
from tests.content import tiny


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """A model `tiny-plain` with GELU in its config and `tiny-plain-quickgelu`, and one checkpoint for both."""
    prepare_torchvision()
    import open_clip
    from open_clip import pretrained

    (tmp_path / "configs").mkdir()
    for name, quick in (("tiny-plain", False), ("tiny-plain-quickgelu", True)):
        (tmp_path / "configs" / f"{name}.json").write_text(json.dumps({**tiny.CLIP, "quick_gelu": quick}))
    open_clip.add_model_config(tmp_path / "configs")
    file = tiny.save_clip(tmp_path / "weights", file="weights.pt") / "weights.pt"
    tags = {"openai": {"hf_hub": "timm/tiny/", "quick_gelu": True}, "laion": {"hf_hub": "timm/tiny/"}}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-plain", tags)
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *given, **options: str(file))
    monkeypatch.setattr(encode_clip, "need_hub_file", lambda *given: None)
    return file


def rows(name):
    encoder = load_encoder("text", EncodeConfig(model=name, device="cpu"))
    return encoder.encode(["a red kite"]), encoder.settings


def test_a_tag_decides_the_activation(plain):
    (plain.parent / encode_clip.CONFIG_FILE).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_tag, settings = rows("clip:tiny-plain:openai")
        own, own_settings = rows(f"clip:tiny-plain-quickgelu:{plain}")
        other, other_settings = rows("clip:tiny-plain:laion")
    np.testing.assert_array_equal(by_tag, own)
    assert settings["quick_gelu"] and own_settings["quick_gelu"] and not other_settings["quick_gelu"]
    assert np.abs(by_tag - other).max() > 1e-4 and settings["weights"] == other_settings["weights"]
    assert settings["architecture"] == own_settings["architecture"] != other_settings["architecture"]


def test_a_file_that_tells_nothing_is_told_about(plain):
    config = plain.parent / encode_clip.CONFIG_FILE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beside, settings = rows(f"clip:tiny-plain:{plain}")
    assert settings["quick_gelu"]
    config.unlink()
    with pytest.warns(UserWarning, match=r"weights.pt' runs with the activation of tiny-plain, GELU; .*as OpenAI's"):
        alone, settings = rows(f"clip:tiny-plain:{plain}")
    assert not settings["quick_gelu"] and np.abs(alone - beside).max() > 1e-4
    config.write_text(json.dumps({"model_cfg": {**tiny.CLIP, "quick_gelu": False}}))
    with pytest.raises(
        MmfastError, match=r"is used without quick-GELU, which tiny-plain-quickgelu has; choose clip:ti"
    ):
        rows(f"clip:tiny-plain-quickgelu:{plain}")


def test_every_published_tag_runs_as_it_was_trained():
    prepare_torchvision()
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    forced = []
    for model, tag in open_clip.list_pretrained():
        built, force = bool(open_clip.get_model_config(model).get("quick_gelu")), encode_clip._quick_gelu(model, tag)
        assert (built or force) == bool(get_pretrained_cfg(model, tag).get("quick_gelu")) or model == "roberta-ViT-B-32"
        forced += [(model, tag)] * force
    assert ("ViT-B-32", "openai") in forced and ("ViT-B-32-quickgelu", "openai") not in forced
