"""Weights of encoders that are absent, or lack something, are one sentence and never random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mmfast.content.encoders import EncodeConfig, load_encoder
from mmfast.errors import MmfastError
from tests.content import tiny


def without(folder, drop):
    """Take the tensors that `drop` chooses out of a folder's weights."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({name: one for name, one in load_file(file).items() if not drop(name)}, file, {"format": "pt"})


def test_a_sentence_encoder_whose_file_lacks_tensors_is_refused(tmp_path):
    folder = tiny.save_sentence(tmp_path / "model")
    from transformers import PreTrainedModel

    load = PreTrainedModel.__dict__["from_pretrained"]
    without(folder, lambda name: "layer.0.attention.self" in name)
    told = r"model/model.safetensors' lacks 6 tensors of BertModel: encoder.layer.0.*self.key.bias, .*; give a folder"
    with pytest.raises(MmfastError, match=told):
        load_encoder("text", EncodeConfig(model=f"sentence:{folder}", device="cpu"))
    assert PreTrainedModel.__dict__["from_pretrained"] is load


def test_a_sentence_encoder_needs_no_pooler(sentence_folder, tmp_path):
    folder = tiny.save_sentence(tmp_path / "model")
    without(folder, lambda name: name.startswith("pooler."))
    configs = [EncodeConfig(model=f"sentence:{one}", device="cpu") for one in (folder, folder, sentence_folder)]
    first, second, whole = [load_encoder("text", config) for config in configs]
    np.testing.assert_array_equal(first.encode(["a red kite"]), whole.encode(["a red kite"]))
    assert first.settings == second.settings


def test_weights_that_are_not_there_name_file_page_and_the_light_way():
    for modality, name, words in (
        ("image", "clip", ["open_clip_model.safetensors", "huggingface.co/timm/vit_base_patch32_clip_224.openai"]),
        ("text", "clip:hf-hub:org/own", ["open_clip_config.json from https://huggingface.co/org/own"]),
        ("text", "stsb-roberta-large", ["modules.json", "huggingface.co/sentence-transformers/stsb-roberta-large"]),
    ):
        with pytest.raises(MmfastError) as raised:
            load_encoder(modality, EncodeConfig(model=name))
        text = str(raised.value)
        assert all(word in text for word in [*words, "HF_HUB_OFFLINE is set", f"--{modality} light"]), text
    with pytest.raises(MmfastError, match=r"there is no folder '/none/here'. With its folder"):
        load_encoder("text", EncodeConfig(model="sentence:/none/here"))
    with pytest.raises(MmfastError, match=r"open_clip has no model 'ViT-B-3' and.*\. Did you mean 'ViT-B-32'"):
        load_encoder("image", EncodeConfig(model="clip:ViT-B-3:openai"))
    with pytest.raises(MmfastError, match=r"'opnai' is neither a file nor a tag of ViT-B-32. Did you mean 'openai'"):
        load_encoder("image", EncodeConfig(model="clip:ViT-B-32:opnai"))


@pytest.mark.parametrize(
    ("modality", "name", "repository"),
    [
        ("text", "sentence:my model", "my model"),
        ("text", "sentence:org/na me", "org/na me"),
        ("text", "sentence:bad--name", "bad--name"),
        ("text", "last-token:bad..name", "bad..name"),
        ("image", "clip:hf-hub:bad name", "bad name"),
    ],
)
def test_a_name_that_no_hub_takes_is_told(modality, name, repository):
    told = f"cannot be loaded: '{repository}' is neither a folder that exists nor a name on Hugging Face"
    with pytest.raises(MmfastError, match=told):
        load_encoder(modality, EncodeConfig(model=name))


def test_a_clip_folder_without_weights_is_refused(clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(MmfastError, match=r"the weights of 'clip:.*Required pretrained weights"):
        load_encoder("image", EncodeConfig(model=f"clip:{tmp_path}"))


def test_models_come_from_the_hub_by_name(hub, clip_folder, sentence_folder):
    tiny.cached_on_hub(hub, "org/clip", clip_folder)
    tiny.cached_on_hub(hub, "org/sentence", sentence_folder)
    for modality, name, folder in (
        ("image", "clip:hf-hub:org/clip", f"clip:{clip_folder}"),
        ("text", "clip:hf-hub:org/clip", f"clip:{clip_folder}"),
        ("text", "sentence:org/sentence", f"sentence:{sentence_folder}"),
    ):
        fetched, given = (load_encoder(modality, EncodeConfig(model=one, device="cpu")) for one in (name, folder))
        assert fetched.name == name and {**fetched.settings, "encoder": ""} == {**given.settings, "encoder": ""}


def test_the_preset_of_roberta_loads_a_network_of_its_kind(hub, tmp_path):
    folder = tiny.save_sentence(tmp_path / "model", kind="Roberta")
    tiny.cached_on_hub(hub, "sentence-transformers/stsb-roberta-large", folder)
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder("text", EncodeConfig(model="stsb-roberta-large", device="cpu"))
    expected = SentenceTransformer(str(folder), device="cpu").encode(["a red kite", "shoe"])
    np.testing.assert_allclose(encoder.encode(["a red kite", "shoe"]), expected, atol=1e-6)
