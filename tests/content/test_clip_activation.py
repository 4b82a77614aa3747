"""CLIP weights run with the activation and the pictures that they were trained with, or with a word about it."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

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
        built, force = (
            bool(open_clip.get_model_config(model).get("quick_gelu")),
            encode_clip._quick_gelu(model, tag, {}),
        )
        assert (built or force) == bool(get_pretrained_cfg(model, tag).get("quick_gelu")) or model == "roberta-ViT-B-32"
        forced += [(model, tag)] * force
    assert ("ViT-B-32", "openai") in forced and ("ViT-B-32-quickgelu", "openai") not in forced


def transform_of(name):
    encoder = load_encoder("image", EncodeConfig(model=name, device="cpu"))
    shown = encoder.settings["transform"]
    assert list(encoder.transform.transforms[-1].mean) == shown["mean"]  # as it is applied
    return {name: shown[name] for name in encode_clip.PREPROCESSING}


SQUASHED = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}


def test_pictures_for_a_file_are_prepared_by_the_config_beside_it_or_as_for_all_published_weights(plain, monkeypatch):
    from open_clip import pretrained

    config, name = plain.parent / encode_clip.CONFIG_FILE, f"clip:tiny-plain-quickgelu:{plain}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beside = transform_of(name)
    own = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    assert beside == own
    identity = encode_clip.clip_identity(name)
    assert f" {encode_clip.CONFIG_FILE}:" in identity
    config.unlink()
    alone = encode_clip.clip_identity(name)
    assert alone.partition(" ")[0] == identity.partition(" ")[0] and encode_clip.CONFIG_FILE not in alone
    with pytest.warns(UserWarning, match=r"prepared as for OpenAI's weights, and no published weights of it are known"):
        openai = transform_of(name)
    tags = {tag: {"hf_hub": "timm/tiny/", **SQUASHED} for tag in ("one", "two")}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-plain-quickgelu", tags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transform_of(name) == SQUASHED
        assert encode_clip.clip_identity(name) != alone  # features are kept under it
    tags["two"]["resize_mode"] = "longest"
    with pytest.warns(UserWarning, match=r"published weights of this model differ in that; .* put their open_clip_con"):
        assert transform_of(name) == openai


def test_a_damaged_config_or_archive_is_a_sentence(plain):
    config = plain.parent / encode_clip.CONFIG_FILE
    for damaged in ("{", "[]", '{"preprocess_cfg": {}}', '{"model_cfg": {}, "preprocess_cfg": "x"}'):
        config.write_text(damaged)
        for read in (rows, encode_clip.clip_identity):
            with pytest.raises(MmfastError, match=rf"'{config}' is no config of open_clip .*; mend or remove it"):
                read(f"clip:tiny-plain:{plain}")
    config.unlink()
    whole = plain.read_bytes()
    plain.write_bytes(whole[:64] + whole[-64:])
    with pytest.raises(MmfastError, match=r"the weights of 'clip:tiny-plain-quickgelu:.*cannot be loaded"):
        rows(f"clip:tiny-plain-quickgelu:{plain}")


def holder(state):
    """A module with these tensors by their dotted names, and nothing to compute."""
    module = torch.nn.Module()
    for name, tensor in state.items():
        *parents, last = name.split(".")
        inside = module
        for parent in parents:
            if not hasattr(inside, parent):
                inside.add_module(parent, torch.nn.Module())
            inside = getattr(inside, parent)
        inside.register_buffer(last, tensor)
    return module


def test_a_torchscript_archive_such_as_openai_published_is_a_file_too(plain, tmp_path):
    (tmp_path / "jit").mkdir()
    shutil.copy(plain.parent / encode_clip.CONFIG_FILE, tmp_path / "jit")
    archive, state = tmp_path / "jit" / "ViT.pt", torch.load(plain)["state_dict"]
    state = {name: tensor.half() for name, tensor in state.items()}
    torch.save({"state_dict": state}, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(holder(state | {"input_resolution": torch.tensor(32)}))
    script.save(archive)
    by_file, settings = rows(f"clip:tiny-plain-quickgelu:{plain}")
    by_archive, archived = rows(f"clip:tiny-plain-quickgelu:{archive}")
    np.testing.assert_array_equal(by_archive, by_file)
    assert archived["weights"] == settings["weights"]
