"""Where pretrained models go, by one rule for all of them, and what is said of those that do not fit there."""

from __future__ import annotations

import pytest
import torch

import mmfast.device
from mmfast.content.devices import pick_device
from mmfast.content.encoders import EncodeConfig, load_encoder
from mmfast.content.language_models import LocalChat, LocalSettings
from mmfast.content.segment_sam import SamSegmenter
from mmfast.content.weights import need_package
from mmfast.device import resolve_device
from mmfast.errors import MmfastError
from tests.content.test_sam import build_tiny
from tests.content.tiny_models import save_llama, save_mistral


class Placed(BaseException):
    """Raised in the place of moving a model; not an Exception, which loading would put into words."""


@pytest.fixture
def gpu(monkeypatch):
    """A torch that sees one GPU, an mmfast without CUDA kernels, and models that stop where they are moved to."""

    def to(self, *where, **options):
        if where and not isinstance(where[0], torch.dtype):
            raise Placed(str(where[0]))
        return self

    need_package("transformers", "language models")
    from transformers import PreTrainedModel

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(mmfast.device, "has_cuda_kernels", lambda: False)
    return lambda: [monkeypatch.setattr(kind, "to", to) for kind in (torch.nn.Module, PreTrainedModel)]


def test_auto_is_cuda_where_torch_sees_a_gpu(gpu):
    assert [pick_device(name).type for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    assert resolve_device("auto").type == "cpu"  # what trains needs the kernels
    with pytest.raises(MmfastError, match="'cuda:1' was asked but"):
        pick_device("cuda:1")


def test_auto_is_the_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"


def test_every_model_follows_that_rule(gpu, clip_folder, sentence_folder, monkeypatch, tmp_path):
    from segment_anything import sam_model_registry
    from torchvision import models

    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "net.pth")
    save_llama(tmp_path / "llama")
    save_mistral(tmp_path / "mistral")
    monkeypatch.setitem(sam_model_registry, "vit_b", build_tiny)
    torch.save(build_tiny().state_dict(), tmp_path / "sam.pth")
    names = {
        f"clip:{clip_folder}": "image",
        f"sentence:{sentence_folder}": "text",
        f"torchvision:shufflenet_v2_x0_5:{tmp_path}/net.pth": "image",
        f"last-token:{tmp_path}/mistral": "text",
    }
    ways = [
        lambda: LocalChat(LocalSettings(model=str(tmp_path / "llama")), 8, "").model,
        SamSegmenter(model="vit_b", checkpoint=str(tmp_path / "sam.pth")).load,
        *(lambda n=n, m=m: load_encoder(m, EncodeConfig(model=n)).encode(["a mug"]) for n, m in names.items()),
    ]
    gpu()
    for way in ways:
        with pytest.raises(Placed, match=r"^cuda$"):
            way()


def full(*arguments, device=None, **options):
    if device is not None:  # open_clip itself moves a model to the CPU
        return arguments[0]
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_an_encoder_that_does_not_fit_is_told(clip_folder, sentence_folder, monkeypatch, tmp_path):
    from torchvision import models

    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "net.pth")
    monkeypatch.setattr(torch.nn.Module, "to", full)
    for modality, name in (
        ("image", f"clip:{clip_folder}"),
        ("text", f"sentence:{sentence_folder}"),
        ("image", f"torchvision:shufflenet_v2_x0_5:{tmp_path}/net.pth"),
    ):
        with pytest.raises(MmfastError, match=r"^[a-z]*:.*: the device has too little memory; choose a smaller model"):
            load_encoder(modality, EncodeConfig(model=name, device="cpu"))


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_first_picture_or_text_that_does_not_fit_is_told(clip_folder, monkeypatch, modality):
    monkeypatch.setattr("mmfast.content.encode_clip.run_model", full)
    with pytest.raises(MmfastError, match=r"^clip:.*: the device has too little memory; choose a smaller model"):
        load_encoder(modality, EncodeConfig(model=f"clip:{clip_folder}", device="cpu"))
