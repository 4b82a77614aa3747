"""Language models by preset, by name on Hugging Face or by folder: where their files lie, and loading them whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfast.content.weights import HUB, first_line, loading, need_hub_file, need_package
from mmfast.data.hashing import hash_file, hash_json
from mmfast.errors import MmfastError

PRESETS = {
    "llama-2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
    "llama-3.2-11b-vision-instruct": "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "e5-mistral-7b-instruct": "intfloat/e5-mistral-7b-instruct",
}
WHOLE = "all its files (model-*.safetensors, config.json, tokenizer)"
DOUBLE = ("consolidated*",)  # the same weights once more, in the form of Mistral's and Meta's own code
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class HubModel:
    """A folder with a model as `save_pretrained` writes it; `version` is the hash of its files, or the commit."""

    folder: Path
    name: str
    version: str

    @property
    def tag(self) -> str:
        """Name and version in short, for people and answer files."""
        return f"{self.name}@{self.version[:16]}"


def find_model(model: str, instead: str) -> HubModel:
    """Return where the files of a model lie: in a folder, or in Hugging Face's cache, fetched if they are not there.

    model: a folder, a preset, or a name on Hugging Face. instead: how to go on without it, for the message.
    Raises MmfastError that names the weights, their page and what to do instead when they cannot be had.

    >>> find_model("llama-2-7b-chat", "Give labels by hand")  # doctest: +SKIP
    """
    need_package("transformers", "language models")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return HubModel(folder, folder.resolve().name, _hash_folder(folder))
    name = PRESETS.get(model.lower(), model)
    from huggingface_hub import snapshot_download

    with loading(model, WHOLE, f"{HUB}/{name}", instead):
        need_hub_file(name, ["config.json"], model, instead, WHOLE)
        found = Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=list(DOUBLE)))
    if not any(found.glob("*.safetensors")):
        raise _no_safetensors(model, name, found, instead)
    return HubModel(found, name, found.name)  # the last folder of a snapshot's path is its commit


def check_model(model: str, instead: str) -> None:
    """Raise MmfastError, as `find_model` does, where weights are neither here nor in reach; fetch nothing."""
    need_package("transformers", "language models")
    if not Path(model).expanduser().is_dir():
        need_hub_file(PRESETS.get(model.lower(), model), ["config.json"], model, instead, WHOLE)


def _no_safetensors(model: str, name: str, found: Path, instead: str) -> MmfastError:
    """Return the error for a snapshot without safetensors: there are none on the hub, or they could not be fetched."""
    from huggingface_hub import list_repo_files
    from huggingface_hub.utils import filter_repo_objects

    try:
        own = [file for file in list_repo_files(name) if "/" not in file]  # patterns reach into folders
        there, why = bool(list(filter_repo_objects(own, allow_patterns=FILES[1], ignore_patterns=list(DOUBLE)))), ""
    except Exception as error:  # offline, access refused, a server in trouble
        there, why = True, f" and the hub could not be asked for them ({first_line(error)})"
    if there:
        return MmfastError(
            f"'{model}' has no safetensors in the cache ('{found}'){why}; run again where {HUB}/{name} can be read, or "
            f"save it with save_pretrained and give the folder. {instead}"
        )
    return MmfastError(
        f"'{model}' has no safetensors on Hugging Face, and other files are not fetched; save it with "
        f"save_pretrained and give the folder, or choose another model. {instead}"
    )


def load_part(kind: Any, model: HubModel) -> Any:
    """Return the tokenizer, processor or config that transformers' class `kind` reads from a model's folder."""
    with _told(kind, model):
        return kind.from_pretrained(model.folder, local_files_only=True)


def load_network(kind: Any, model: HubModel, dtype: str) -> Any:
    """Return the network that transformers' class `kind` reads from a model's folder, for use without gradients.

    Raises MmfastError when the files are damaged, incomplete, or of another kind of model.
    """
    import torch

    with _told(kind, model):
        network, info = kind.from_pretrained(
            model.folder, local_files_only=True, output_loading_info=True, dtype=getattr(torch, dtype)
        )
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would go on with random numbers in their place.
        raise MmfastError(
            f"'{model.folder}' lacks {len(missing)} tensors of {type(network).__name__}, such as {missing[0]}; "
            "give a folder that holds the whole model"
        )
    return network.requires_grad_(False).eval()


@contextmanager
def _told(kind: Any, model: HubModel) -> Iterator[None]:
    """Turn whatever goes wrong while files are read into one sentence."""
    try:
        yield
    except Exception as error:  # of the system, of safetensors, of transformers: by what is wrong with the files
        raise MmfastError(
            f"'{model.folder}' does not load with {kind.__name__}: {first_line(error)}; fetch it again"
        ) from error


def _hash_folder(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise MmfastError(f"'{folder}' holds no config.json; give a folder as save_pretrained writes it")
    files = sorted({path for pattern in (*FILES, "*.bin") for path in folder.glob(pattern)})
    return hash_json({path.name: hash_file(path) for path in files})
