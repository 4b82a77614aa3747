"""Encoders by name: presets, `family:model` names, and what an encoder has to offer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from mmfast.config import Config
from mmfast.content.images import MOST_PIXELS
from mmfast.errors import MmfastError, suggest

Modality = Literal["image", "text"]
# (modality, name) -> the encoder it stands for; specs of the papers that use it are in docs/features.md
PRESETS = {
    ("image", "clip"): "clip:ViT-B-32-quickgelu:openai",
    ("text", "clip"): "clip:ViT-B-32-quickgelu:openai",
    ("image", "clip-b32"): "clip:ViT-B-32-quickgelu:openai",
    ("text", "clip-b32"): "clip:ViT-B-32-quickgelu:openai",
    ("image", "clip-b16"): "clip:ViT-B-16-quickgelu:openai",
    ("text", "clip-b16"): "clip:ViT-B-16-quickgelu:openai",
    ("text", "minilm"): "sentence:sentence-transformers/all-MiniLM-L6-v2",
    ("text", "stsb-roberta-large"): "sentence:sentence-transformers/stsb-roberta-large",
    ("text", "e5-mistral"): "last-token:e5-mistral-7b-instruct",
}
_CLIP = "clip[:MODEL:TAG_OR_FILE], clip:FOLDER, clip:hf-hub:NAME"
FORMS = {
    "image": f"light, {_CLIP}, torchvision:MODEL[:WEIGHTS_OR_FILE], amazon-cnn:FILE.b",
    "text": f"light, {_CLIP}, sentence:NAME_OR_FOLDER, last-token:NAME_OR_FOLDER",
}


class EncodeConfig(Config):
    """How one modality is encoded; only what changes the numbers is part of the store's keys."""

    model: str = Field(min_length=1)
    """A preset (light, clip, clip-b16, minilm, stsb-roberta-large, e5-mistral) or family:model; docs/features.md."""
    batch_size: int = Field(64, ge=1)
    """Pictures or texts per call of the model; last-token encoders cut that into eights unless it is set."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """The lower two run the model under autocast; of last-token encoders it is the weights' type, unset: bfloat16."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers on disk."""
    missing: Literal["mean", "zero"] = "mean"
    """Row of an item without a usable picture or text: the mean of the others, or zeros."""
    string: Literal["standard", "lattice"] = "standard"
    """Item string of texts (specs: MMRec's, or LATTICE's with its slip)."""
    max_length: int | None = Field(None, ge=1)
    """Most tokens of a text; None keeps the model's own limit (last-token: 512). Sentence and last-token encoders."""
    most_pixels: int = Field(MOST_PIXELS, ge=1)
    """A picture with more is listed as missing."""
    device: str = "auto"
    """auto (CUDA where torch sees a GPU, else the CPU), cpu, cuda or cuda:N."""
    workers: int | None = Field(None, ge=0)
    """Processes that decode pictures; None: one per 256 of them, at most cores - 1 and 8; 0 decodes in this process."""


class Encoder(Protocol):
    """A loaded model of one modality. `settings` are JSON values that, with the input, determine the rows."""

    name: str
    dim: int
    settings: dict[str, Any]
    transform: Callable[[Image.Image], torch.Tensor] | None

    def encode(self, batch: Any) -> np.ndarray:
        """Return rows float32 [n, dim] of pictures (a tensor of transformed ones, [n, 3, H, W]) or texts (a list)."""


class WholeEncoder(Protocol):
    """An encoder that looks at all items at once and has no `transform`; `missing` are positions it could not use."""

    name: str
    dim: int
    settings: dict[str, Any]
    missing: np.ndarray

    def encode(self, contents: Sequence[Any]) -> np.ndarray:
        """Return rows float32 [n, dim] of paths of pictures or of texts; None and unreadable ones get the mean row."""


class Spec(NamedTuple):
    """An encoder's name taken apart: family, and what follows it."""

    modality: str
    family: str
    rest: str

    @property
    def name(self) -> str:
        """The full name, without a preset's shortness."""
        return f"{self.family}:{self.rest}" if self.rest else self.family

    @property
    def label(self) -> str:
        """The name to keep: of files and folders only their own names, since the weights' hash tells them apart."""
        parts = [Path(part).name if Path(part).expanduser().exists() else part for part in self.name.split(":")]
        return ":".join(parts)


def parse_encoder(modality: str, name: str) -> Spec:
    """Return the parts of an encoder's name. Raises MmfastError for an unknown one, with the known forms.

    >>> parse_encoder("image", "clip").rest
    'ViT-B-32-quickgelu:openai'
    """
    family, _, rest = PRESETS.get((modality, name), name).partition(":")
    known = {form.partition("[")[0].partition(":")[0] for form in FORMS[modality].split(", ")}
    if family not in known or (family != "light" and not rest):
        presets = [preset for kind, preset in PRESETS if kind == modality]
        raise MmfastError(
            f"{modality} encoder '{name}' is unknown.{suggest(name, [*presets, *known])} Presets: light, "
            f"{', '.join(presets)}; forms: {FORMS[modality]}"
        )
    return Spec(modality, family, rest)


def load_encoder(modality: str, config: EncodeConfig) -> Encoder | WholeEncoder:
    """Return the encoder of a config, its weights on the device. Raises MmfastError when they cannot be had.

    >>> load_encoder("text", EncodeConfig(model="light")).name
    'light-text-1'
    """
    spec = parse_encoder(modality, config.model)
    if spec.family == "light":
        from mmfast.content.light import LightImageEncoder, LightTextEncoder

        return LightImageEncoder() if modality == "image" else LightTextEncoder()
    if spec.family == "clip":
        from mmfast.content.encode_clip import ClipEncoder

        return ClipEncoder(spec, config)
    if spec.family == "torchvision":
        from mmfast.content.encode_backbone import BackboneEncoder

        return BackboneEncoder(spec, config)
    if spec.family == "last-token":
        from mmfast.content.last_token import last_token_encoder

        return last_token_encoder(spec, config)
    from mmfast.content.encode_sentence import SentenceEncoder

    return SentenceEncoder(spec, config)


def hash_weights(model: torch.nn.Module) -> str:
    """Return the sha256 of all parameters and buffers of a model, by name: its identity, wherever it came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def computed_by(device: torch.device) -> dict[str, str]:
    """Return what of the machine enters an encoder's settings.

    Rows of a GPU and of a CPU, or of two releases of torch, differ in their last digits: neither may go on where the
    other stopped.

    >>> computed_by(torch.device("cuda:1"))["device"]
    'cuda'
    """
    return {"device": device.type, "torch": ".".join(torch.__version__.split(".")[:2])}


def run_model(function: Callable[[], torch.Tensor], device: torch.device, precision: str) -> np.ndarray:
    """Return what a model's function gives without gradients, under autocast unless float32, as float32 [n, F]."""
    with torch.inference_mode(), autocast(device, precision):
        return function().float().cpu().numpy()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context that runs a model's products in `precision`, which changes nothing for float32."""
    half = None if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype=half, enabled=half is not None)
