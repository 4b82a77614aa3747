"""Backbones of torchvision: files run with the transform and the scaling that published weights run with."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from mmfast.content.encoders import EncodeConfig, load_encoder
from mmfast.content.torchvision_ops import prepare_torchvision
from mmfast.errors import MmfastError
from tests.content import tiny


@pytest.fixture(autouse=True)
def prepared():
    """Make the tests' own imports of torchvision safe."""
    prepare_torchvision()


def backbone(name):
    return load_encoder("image", EncodeConfig(model=f"torchvision:{name}", device="cpu"))


def test_a_torchvision_backbone_gives_what_its_classifier_reads(tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    network = models.shufflenet_v2_x0_5(weights=None)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    transform = models.get_model_weights("shufflenet_v2_x0_5").DEFAULT.transforms()
    read = []
    network.eval().fc.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    with torch.no_grad():
        network(transform(Image.fromarray(tiny.photo(1, 40, 50)))[None])
    encoder = backbone(f"shufflenet_v2_x0_5:{tmp_path}/net.pth")
    assert encoder.dim == 1024
    rows = encoder.encode(encoder.transform(Image.fromarray(tiny.photo(1, 40, 50)))[None])
    np.testing.assert_allclose(rows[0], read[0][0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_file_of_a_network_that_scales_its_input_is_scaled_too(name, tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model(name, weights=None, transform_input=True, init_weights=False)  # as with its own weights
    torch.save(network.state_dict(), tmp_path / "net.pth")
    encoder = backbone(f"{name}:{tmp_path}/net.pth")
    pixels = encoder.transform(Image.fromarray(tiny.photo(1, 40, 50)))[None]
    network.eval().fc = torch.nn.Identity()
    with torch.no_grad():
        np.testing.assert_allclose(encoder.encode(pixels), network(pixels).numpy(), rtol=1e-4, atol=1e-5)
    assert encoder.settings["transform_input"] is True


def test_a_file_takes_the_transform_of_the_published_weights_it_is_named_like(tmp_path):
    from torchvision import models

    published, state = models.MobileNet_V2_Weights, models.mobilenet_v2(weights=None).state_dict()
    for weights in published:
        file = tmp_path / weights.url.rpartition("/")[2]
        torch.save(state, file)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder = backbone(f"mobilenet_v2:{file}")
        assert encoder.settings["transform"] == repr(weights.transforms())
    torch.save(state, tmp_path / "own.pth")
    told = r"own.pth' runs with the transform of IMAGENET1K_V2, .* mobilenet_v2-b0353104.pth \(IMAGENET1K_V1\), "
    with pytest.warns(UserWarning, match=told):
        encoder = backbone(f"mobilenet_v2:{tmp_path}/own.pth")
    assert encoder.settings["transform"] == repr(published.IMAGENET1K_V2.transforms())


@pytest.fixture
def small_vits(monkeypatch):
    """Vision transformers of torchvision's builders, with the right tokens and one narrow layer."""
    from torchvision.models import vision_transformer

    def build(patch_size, image_size=224, **sizes):
        return vision_transformer.VisionTransformer(image_size, patch_size, 1, num_heads=1, hidden_dim=4, mlp_dim=4)

    monkeypatch.setattr(vision_transformer, "_vision_transformer", build)
    return build


@pytest.mark.parametrize(
    ("name", "patch", "tag"),
    [("vit_b_16", 16, "IMAGENET1K_SWAG_E2E_V1"), ("vit_h_14", 14, "IMAGENET1K_SWAG_E2E_V1"), ("vit_b_32", 32, None)],
)
def test_a_vision_transformer_by_file_takes_pictures_of_its_size(name, patch, tag, small_vits, tmp_path):
    from torchvision import models

    published = models.get_model_weights(name)
    weights = published[tag] if tag else published.DEFAULT
    size = weights.meta["min_size"][0]
    for file in (tmp_path / weights.url.rpartition("/")[2], tmp_path / "own.pth"):
        torch.save(small_vits(patch, size).state_dict(), file)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder = backbone(f"{name}:{file}")
        assert encoder.settings["transform"] == repr(weights.transforms())
        assert encoder.transform(Image.fromarray(tiny.photo(1, 40, 50))).shape == (3, size, size)


def test_a_vision_transformer_of_a_size_that_default_has_not(small_vits, tmp_path):
    from torchvision import models

    linear = models.ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1
    torch.save(small_vits(14).state_dict(), tmp_path / "own.pth")
    assert backbone(f"vit_h_14:{tmp_path}/own.pth").settings["transform"] == repr(linear.transforms())
    torch.save(small_vits(14, 28).state_dict(), tmp_path / "own.pth")
    with pytest.raises(MmfastError, match=r"own.pth' is for pictures of 28 x 28, and .* for other sizes; choose a"):
        backbone(f"vit_h_14:{tmp_path}/own.pth")


def test_published_weights_come_by_their_name(tmp_path, monkeypatch):
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    state = models.mobilenet_v2(weights=None).state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    weights = models.MobileNet_V2_Weights.IMAGENET1K_V1
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    torch.save(state, file)
    by_name, by_file = backbone("mobilenet_v2:IMAGENET1K_V1"), backbone(f"mobilenet_v2:{file}")
    assert {**by_name.settings, "encoder": ""} == {**by_file.settings, "encoder": ""}


def test_wrong_torchvision_names(tmp_path):
    for name, message in (
        ("resnet5", "torchvision has no network 'resnet5'. Did you mean 'resnet50'"),
        ("resnet18:none.pth", "'none.pth' is neither a file nor weights of resnet18 .IMAGENET1K_V1"),
    ):
        with pytest.raises(MmfastError, match=message):
            backbone(name)
    from torchvision import models

    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "s.pth")
    with pytest.raises(MmfastError, match="this network ends in no linear layer"):
        backbone(f"squeezenet1_1:{tmp_path}/s.pth")
