"""Picture features from any classification network of torchvision: what its last linear layer reads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from mmfast.content.devices import enough_memory, pick_device
from mmfast.content.encoders import EncodeConfig, Spec, computed_by, hash_weights, run_model
from mmfast.content.weights import loading, need_package
from mmfast.errors import MmfastError, suggest

RENORMALISING = ("googlenet", "inception_v3")  # they scale pixels themselves, to what their weights want


class BackboneEncoder:
    """A picture to the input [D] of the network's classifier, with the transform that its weights were trained with."""

    def __init__(self, spec: Spec, config: EncodeConfig) -> None:
        need_package("torchvision", "features of torchvision backbones")
        import torchvision

        self.name = spec.label
        self._device, self._precision = pick_device(config.device), config.precision
        network, self.transform = _load(spec)
        with enough_memory(self.name):
            self._network = _without_classifier(network, self.name).eval().to(self._device)
        self.settings: dict[str, Any] = {
            "encoder": self.name,
            "weights": hash_weights(network),
            "transform": repr(self.transform),
            "torchvision": torchvision.__version__,
            "precision": self._precision,
            **computed_by(self._device),
        }
        if hasattr(network, "transform_input"):
            self.settings["transform_input"] = network.transform_input
        with enough_memory(self.name):
            self.dim = self.encode(self.transform(Image.new("RGB", (8, 8)))[None]).shape[1]

    def encode(self, batch: torch.Tensor) -> np.ndarray:
        """Return rows float32 [n, D] of pixels [n, 3, H, W]."""
        pixels = batch.to(self._device)
        return run_model(lambda: self._network(pixels), self._device, self._precision)


def _load(spec: Spec) -> tuple[nn.Module, Any]:
    import torchvision.models as models

    name, _, which = spec.rest.partition(":")
    known = models.list_models(module=models)
    if name not in known:
        raise MmfastError(f"image encoder '{spec.name}': torchvision has no network '{name}'.{suggest(name, known)}")
    published = models.get_model_weights(name)
    path = Path(which).expanduser()
    if which and path.is_file():
        with loading(spec.name, f"a state dict of {name}", f"'{path}'", "Without it: --image light"):
            state = _read(path)
            weights = _published_like(path, published, _picture_size(state) if name.startswith("vit_") else None)
            # torchvision builds these two for input as others have it only along with its own weights.
            options = {"transform_input": True, "init_weights": False} if name in RENORMALISING else {}
            if name.startswith("vit_"):
                options = {"image_size": weights.meta["min_size"][0]}
            network = models.get_model(name, weights=None, **options)
            network.load_state_dict(state)
        return network, weights.transforms()
    if which and which not in published.__members__:
        tags = ", ".join(published.__members__)
        raise MmfastError(f"image encoder '{spec.name}': '{which}' is neither a file nor weights of {name} ({tags})")
    weights = published[which] if which else published.DEFAULT
    instead = f"With the file on this machine: torchvision:{name}:FILE; without it: --image light"
    with loading(spec.name, Path(weights.url).name, weights.url, instead):
        return models.get_model(name, weights=weights), weights.transforms()


def _picture_size(state: Mapping[str, torch.Tensor]) -> int | None:
    """Return the only size of pictures that a vision transformer takes, None for other networks."""
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if positions is None or patches is None:
        return None
    return math.isqrt(positions.shape[1] - 1) * patches.shape[-1]


def _published_like(path: Path, published: Any, size: int | None) -> Any:
    """Return the published weights that a file is named like, whose transform it takes.

    Else DEFAULT, or the first ones for pictures of `size`, and tell of others.
    """
    for weights in published:
        if path.name == Path(weights.url).name:
            return weights
    fitting = [weights for weights in published if size is None or weights.meta["min_size"][0] == size]
    if not fitting:
        raise MmfastError(
            f"'{path}' is for pictures of {size} x {size}, and how those are prepared is unknown: all published "
            "weights of this network are for other sizes; choose a file of theirs"
        )
    chosen = published.DEFAULT if published.DEFAULT in fitting else fitting[0]
    if len({repr(weights.transforms()) for weights in fitting}) > 1:
        files = ", ".join(f"{Path(weights.url).name} ({weights.name})" for weights in fitting)
        warnings.warn(
            f"'{path}' runs with the transform of {chosen.name}, and published weights differ in theirs; for those of "
            f"another, give the file the name it was published under: {files}",
            stacklevel=4,
        )
    return chosen


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _without_classifier(network: nn.Module, name: str) -> nn.Module:
    """Replace the last linear layer by nothing, in place. Raises MmfastError for a network without one."""
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise MmfastError(f"image encoder '{name}': this network ends in no linear layer; choose another one")
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network
