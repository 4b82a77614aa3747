"""CLIP towers through open_clip: any model with a pretrained tag, a checkpoint file, or a folder with its config."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from PIL import Image

from mmfast.content.devices import enough_memory, pick_device
from mmfast.content.encoders import EncodeConfig, Spec, computed_by, hash_weights, parse_encoder, run_model
from mmfast.content.weights import HUB, loading, need_hub_file, need_package
from mmfast.data.hashing import hash_file, hash_json
from mmfast.errors import MmfastError, suggest

CONFIG_FILE = "open_clip_config.json"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
QUICK = "-quickgelu"  # ending of the models that have OpenAI's activation
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class ClipEncoder:
    """One tower of a CLIP model: the projected vector, not normalised [D], of a picture or a text.

    Pictures go through the transform that belongs to the weights; texts are cut at the model's length (77 tokens).
    """

    def __init__(self, spec: Spec, config: EncodeConfig) -> None:
        need_package("open_clip", "CLIP features")
        import open_clip

        self.name, self.modality = spec.label, spec.modality
        self._device, self._precision = pick_device(config.device), config.precision
        model, transform, source, built = _load(spec, _instead(spec))
        with enough_memory(self.name):
            self._tower = model.eval().to(self._device)
        self.transform: Callable[[Image.Image], torch.Tensor] | None = transform if spec.modality == "image" else None
        self.settings: dict[str, Any] = {
            "encoder": self.name,
            "weights": hash_weights(model),
            "architecture": hash_json(built),
            "quick_gelu": bool(built.get("quick_gelu")),
            "open_clip": open_clip.__version__,
            "precision": self._precision,
            **computed_by(self._device),
        }
        if "multimodal_cfg" in built:
            self.settings["normalize"] = False  # which is not CoCa's default, as it is that of the other models
        if spec.modality == "image":
            self.settings["transform"] = _values(model.visual.preprocess_cfg)
        else:
            with loading(self.name, "its tokenizer", source, f"Without it: --{spec.modality} light"):
                self._tokenizer = open_clip.get_tokenizer(source)
            self.settings |= {"tokenizer": _tokenizer(self._tokenizer), "ftfy": version("ftfy")}  # cleans every text
        with enough_memory(self.name):
            self.dim = len(self._encode_one())

    def encode(self, batch: Any) -> np.ndarray:
        """Return rows float32 [n, D] of pixels [n, 3, H, W] or of a list of texts."""
        if self.modality == "image":
            pixels = batch.to(self._device)
            return run_model(lambda: self._tower.encode_image(pixels, normalize=False), self._device, self._precision)
        tokens = self._tokenizer(list(batch)).to(self._device)
        return run_model(lambda: self._tower.encode_text(tokens, normalize=False), self._device, self._precision)

    def _encode_one(self) -> np.ndarray:
        if self.transform is None:
            return self.encode(["a photo"])[0]
        return self.encode(self.transform(Image.new("RGB", (8, 8)))[None])[0]


def load_clip(name: str, instead: str = "") -> tuple[Any, Any, Any]:
    """Return (model, transform of pictures, tokenizer) of a CLIP encoder's name, in evaluation mode, on the CPU.

    Raises MmfastError for a name of another family, and when package or weights are not there; `instead` is the advice
    then.

    >>> model, transform, tokenizer = load_clip("clip-b16")  # doctest: +SKIP
    """
    spec = clip_spec(name)
    need_package("open_clip", "CLIP features")
    import open_clip

    instead = instead or _instead(spec)
    model, transform, source, _ = _load(spec, instead)
    with loading(spec.name, "its tokenizer", source, instead):
        return model.eval(), transform, open_clip.get_tokenizer(source)


def check_weights(name: str, instead: str) -> None:
    """Raise MmfastError, as `load_clip` does, where package or weights are neither here nor in reach; load nothing."""
    spec = clip_spec(name)
    need_package("open_clip", "CLIP features")
    _find(spec, instead)


def clip_spec(name: str) -> Spec:
    """Return the parts of a CLIP encoder's name. Raises MmfastError for one of another family."""
    spec = parse_encoder("image", name)
    if spec.family != "clip":
        raise MmfastError(f"encoder '{name}' is no CLIP model; choose clip-b16, clip-b32 or clip:MODEL:TAG_OR_FILE")
    return spec


def clip_identity(name: str) -> str:
    """Return what tells a CLIP model from all others without loading it: its name, or the hash of its files."""
    spec = clip_spec(name)
    own = _own_weights(spec)
    if own is None:
        return f"{spec.rest}, with the activation that the weights were trained with"
    if own.is_dir():
        files = [file for file in sorted(own.iterdir()) if file.is_file()]
        return " ".join(f"{file.name}:{hash_file(file)}" for file in files)
    beside = own.with_name(CONFIG_FILE)  # it decides activation and preprocessing
    config = f" {CONFIG_FILE}:{hash_file(beside)}" if beside.is_file() else ""
    source = spec.rest.partition(":")[0]
    pictures, _ = _preprocessing(source, _config_beside(own))
    return f"{source}:{hash_file(own)}{config} pictures:{hash_json(pictures)}"


def _own_weights(spec: Spec) -> Path | None:
    """Return the folder or file of weights here that a name points at; a tag goes before a file called as it."""
    folder = Path(spec.rest).expanduser()
    source, _, pretrained = spec.rest.partition(":")
    file = Path(pretrained).expanduser()
    if folder.is_dir():
        return folder
    if source == "hf-hub" or not file.is_file():
        return None
    need_package("open_clip", "CLIP features")
    from open_clip.pretrained import get_pretrained_cfg

    return None if get_pretrained_cfg(source, pretrained) else file


def _load(spec: Spec, instead: str) -> tuple[Any, Any, str, dict[str, Any]]:
    """Return (model, transform of evaluation, the name that its tokenizer goes by, the config it is built by)."""
    import open_clip

    source, pretrained, page, file = _find(spec, instead)
    own = _own_weights(spec) if pretrained else None  # a file
    with loading(spec.name, file, page, instead), warnings.catch_warnings():
        beside = _config_beside(own) if own else {}
        quick = bool(pretrained) and _quick_gelu(source, pretrained, beside)
        pictures, unsure = _preprocessing(source, beside) if own else ({}, "")
        if unsure and spec.modality == "image":
            warnings.warn(
                f"'{own}' runs with pictures prepared as for OpenAI's weights, and {unsure}; where these want "
                f"something else, put their {CONFIG_FILE} beside the file",
                stacklevel=4,
            )
        script = own is not None and _is_torchscript(own)
        if script:
            warnings.filterwarnings("ignore", message=".*(TorchScript archive|torch.jit)")  # advice to open_clip
        # Without require_pretrained, open_clip goes on with random numbers where a folder holds no weights.
        model, _, transform = open_clip.create_model_and_transforms(
            source,
            pretrained=str(own or pretrained) or None,
            require_pretrained=True,
            force_quick_gelu=quick,
            weights_only=not script,  # torch hands an archive to torch.jit.load, which runs no Python of it either
            **{f"image_{name}": value for name, value in pictures.items()},
        )
    return model, transform, source, {**_architecture(source), **({"quick_gelu": True} if quick else {})}


def _quick_gelu(source: str, pretrained: str, beside: Mapping[str, Any]) -> bool:
    """Whether weights of a named model want quick-GELU though its config has none, as OpenAI's for plain ViT-B-32 do.

    open_clip goes by the config and only warns. A file tells nothing, unless its repository's config lies beside it:
    then this warns where the name leaves the choice open. Raises MmfastError for a quick-GELU model with other weights.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    built, file = bool((open_clip.get_model_config(source) or {}).get("quick_gelu")), Path(pretrained).expanduser()
    if known := get_pretrained_cfg(source, pretrained):
        # roberta-ViT-B-32 has quick-GELU in its config and no mark on its tag: the config is what it was trained with.
        return bool(known.get("quick_gelu")) and not built
    if beside:
        wanted = bool(beside["model_cfg"].get("quick_gelu"))
        if built and not wanted:
            raise MmfastError(
                f"'{file.with_name(CONFIG_FILE)}' says that '{file.name}' is used without quick-GELU, which {source} "
                f"has; choose clip:{source.removesuffix(QUICK)}:{file}"
            )
        return wanted and not built
    if not built and source + QUICK in open_clip.list_models():
        warnings.warn(
            f"'{file}' runs with the activation of {source}, GELU; for weights trained with quick-GELU, as OpenAI's, "
            f"choose clip:{source}{QUICK}:{file}",
            stacklevel=5,
        )
    return False


def _preprocessing(source: str, beside: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return how pictures are prepared for weights in a file: the values of PREPROCESSING, and why these are unsure.

    By the config of its repository where that lies beside it, else as for all published weights of this model. Where
    these differ or there are none, open_clip's default is what OpenAI's weights want: no values, and the reason.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    own = beside.get("preprocess_cfg")
    tags = [] if own else list_pretrained_tags_by_model(source)
    known = [_values(one) for one in ([own] if own else (get_pretrained_cfg(source, tag) for tag in tags))]
    known = [{name: one[name] for name in PREPROCESSING if one.get(name) is not None} for one in known]
    if known and all(one == known[0] for one in known):
        return known[0], ""
    return {}, "published weights of this model differ in that" if known else "no published weights of it are known"


def _is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive, as OpenAI published its weights, by what torch.load tells it by."""
    with file.open("rb") as opened:
        if opened.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(opened):
            return False
        names = zipfile.ZipFile(opened).namelist()
    return f"{names[0].partition('/')[0]}/constants.pkl" in names


def _config_beside(file: Path) -> dict[str, Any]:
    """Return the config of a repository that lies beside a file of its weights, {} where there is none."""
    config = file.with_name(CONFIG_FILE)
    if not config.is_file():
        return {}
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
        return {"model_cfg": dict(told["model_cfg"]), "preprocess_cfg": dict(told.get("preprocess_cfg") or {})}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MmfastError(
            f"'{config}' is no config of open_clip ({type(error).__name__}: {error}; wanted a JSON object with "
            "model_cfg); mend or remove it"
        ) from error


def _find(spec: Spec, instead: str) -> tuple[str, str, str, str]:
    """Return what open_clip calls a model and its weights, and the page and file that these come from."""
    import open_clip

    folder = Path(spec.rest).expanduser()
    source, _, pretrained = spec.rest.partition(":")
    if folder.is_dir():
        return f"local-dir:{folder}", "", f"the folder '{folder}'", f"{CONFIG_FILE} and {WEIGHT_FILES[0]}"
    if source == "hf-hub":
        need_hub_file(pretrained, [CONFIG_FILE], spec.name, instead)
        return spec.rest, "", f"{HUB}/{pretrained}", WEIGHT_FILES[0]
    if source in open_clip.list_models():
        return source, pretrained, *_check_source(spec, source, pretrained, instead)
    raise MmfastError(
        f"{spec.modality} encoder '{spec.name}': open_clip has no model '{source}' and there is no such "
        f"folder.{suggest(source, open_clip.list_models())} Want clip:MODEL:TAG_OR_FILE, clip:FOLDER or "
        "clip:hf-hub:REPOSITORY"
    )


def _instead(spec: Spec) -> str:
    return f"With the file on this machine: clip:MODEL:FILE; without it: --{spec.modality} light"


def _check_source(spec: Spec, source: str, pretrained: str, instead: str) -> tuple[str, str]:
    """Return (page, file) that the weights come from; a file here needs neither."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    known = get_pretrained_cfg(source, pretrained) if pretrained else {}
    if not known:
        if Path(pretrained).expanduser().is_file():
            return f"the file '{pretrained}'", "an open_clip checkpoint"
        tags = list_pretrained_tags_by_model(source)
        raise MmfastError(
            f"{spec.modality} encoder '{spec.name}': '{pretrained}' is neither a file nor a tag of {source}."
            f"{suggest(pretrained, tags)} Tags: {', '.join(tags) or 'none'}"
        )
    url, (repo, _, file) = known.get("url", ""), known.get("hf_hub", "").rpartition("/")
    names = [file] if file else list(WEIGHT_FILES)
    page = f"{HUB}/{repo}" if repo else url
    if repo:
        need_hub_file(repo, names, spec.name, instead)
    return page, " or ".join(names) if repo else Path(urlparse(url).path).name


def _architecture(source: str) -> dict[str, Any]:
    """Return what a model is built by: with other heads or activations equal weights give other vectors."""
    import open_clip

    if source.startswith("local-dir:"):
        file = Path(source.removeprefix("local-dir:")) / CONFIG_FILE
    elif source.startswith("hf-hub:"):
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(source.removeprefix("hf-hub:"), CONFIG_FILE))
    else:
        return open_clip.get_model_config(source)
    return json.loads(file.read_text(encoding="utf-8"))["model_cfg"]


def _values(settings: Any) -> dict[str, Any]:
    values = asdict(settings) if is_dataclass(settings) else dict(settings)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return what identifies a tokenizer: open_clip's own goes by its class and length, others by their whole table."""
    about = {"class": type(tokenizer).__name__, "context_length": int(tokenizer.context_length)}
    inner = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    if inner is not None:
        about["table"] = hash_json(inner.to_str())
    return about
