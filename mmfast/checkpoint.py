"""Checkpoints: safetensors files of tensors and JSON, written whole or not at all, checked when read, never pickled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmfast.errors import MmfastError, disk_advice, suggest

FORMAT = "mmfast-checkpoint"
VERSION = 1
SHOWN = 3  # names listed in a message before "and N more"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds: named CPU tensors and a JSON dictionary."""

    path: Path
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def tensors_under(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose name starts with `prefix`, without it."""
        return {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}


def save_checkpoint(path: Path | str, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and `meta` (JSON values) to `path`; the old file stays until the new one is whole on disk.

    Raises MmfastError when the disk is full or the folder cannot be written; nothing half written is left behind.
    """
    from safetensors.torch import save_file

    whole = _own_memory(tensors)
    header = {"format": FORMAT, "version": VERSION, "checksum": content_checksum(whole), **meta}
    atomic_write(Path(path), lambda work: save_file(whole, work, metadata={"mmfast": json.dumps(header)}))


def load_checkpoint(path: Path | str, advice: str = "train again") -> Checkpoint:
    """Read and check a checkpoint. Raises MmfastError when it is missing, damaged or of another format version.

    `advice` ends the message about a damaged or missing file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise MmfastError(f"checkpoint '{path}' does not exist; {advice}, or give another run folder")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {}).get("mmfast", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, f"it cannot be read ({error})", advice) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise MmfastError(f"'{path}' is a safetensors file but not a checkpoint of mmfast; give a run's *.safetensors")
    if header.get("version") != VERSION:
        raise MmfastError(
            f"checkpoint '{path}' has format version {header.get('version')} but this mmfast reads version {VERSION}; "
            "read it with the mmfast that wrote it, or train again"
        )
    if header.get("checksum") != content_checksum(tensors):
        raise _damaged(path, "its content is not what was written (checksum differs)", advice)
    return Checkpoint(path, tensors, header)


def content_checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes of contiguous CPU tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_fingerprint(checkpoint: Checkpoint, dataset_name: str, fingerprint: str) -> None:
    """Raise MmfastError when the checkpoint was made with other data than `fingerprint` says."""
    made = checkpoint.meta.get("fingerprint")
    if made != fingerprint:
        raise MmfastError(
            f"checkpoint '{checkpoint.path}' was trained on other data: '{checkpoint.meta.get('dataset')}' "
            f"(fingerprint {str(made)[:12]}), but the data set '{dataset_name}' has fingerprint {fingerprint[:12]}; "
            "ids would not match: restore the original data, split and features, or train again"
        )


def load_model_state(model: nn.Module, checkpoint: Checkpoint, model_name: str) -> None:
    """Copy the tensors under "model/" into `model`.

    Raises MmfastError when the checkpoint is of another model, or names or shapes differ.
    """
    made_by = checkpoint.meta.get("model")
    if made_by != model_name:
        raise MmfastError(
            f"checkpoint '{checkpoint.path}' holds the model '{made_by}', but '{model_name}' was asked; "
            f"use model={made_by}, or another checkpoint"
        )
    load_state(model, checkpoint.tensors_under("model/"), checkpoint.path)


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy `state` into `module` exactly; raises MmfastError naming missing, extra and misshapen tensors."""
    wanted = module.state_dict()
    problems = []
    if missing := [name for name in wanted if name not in state]:
        problems.append(f"it lacks {_some(missing)}.{suggest(missing[0], state)}")
    if extra := [name for name in state if name not in wanted]:
        problems.append(f"it has {_some(extra)}, unknown to this model.")
    for name in wanted:
        if name in state and state[name].shape != wanted[name].shape:
            got, want = tuple(state[name].shape), tuple(wanted[name].shape)
            problems.append(f"'{name}' has shape {got}; the model wants {want}.")
    if problems:
        raise MmfastError(
            f"checkpoint '{source}' does not fit the model: {' '.join(problems)} "
            "Use the config it was trained with (config.yaml beside it)"
        )
    module.load_state_dict(dict(state))


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(work)` fill a temporary sibling of `path`, sync it, and rename it onto `path`.

    Raises MmfastError when the file system refuses; the old file is then untouched and the temporary one removed.
    """
    from polars.exceptions import PolarsError
    from safetensors import SafetensorError

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    work = Path(name)
    try:
        write(work)
        _sync(work)
        work.chmod(0o666 & ~_umask())
        os.replace(work, path)
        _sync(path.parent)
    except (OSError, SafetensorError, PolarsError) as error:
        kept = "the former file is intact" if path.exists() else "no file was left"
        raise _cannot_write(path, error, kept) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            work.unlink()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses inside (full disk, no permission) into an MmfastError that names `path`."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error, "nothing half written was left") from error


def _cannot_write(path: Path, error: Exception, kept: str) -> MmfastError:
    return MmfastError(f"cannot write '{path}': {error}; {kept}; {disk_advice(error, '')}")


def write_text(path: Path, text: str) -> None:
    """Write a small text file as `atomic_write` does."""
    atomic_write(path, lambda work: _write_text(work, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _own_memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return contiguous CPU tensors of which no two share memory, as safetensors wants them; copies only if needed."""
    whole: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if not _stands_alone(tensor) or tensor.data_ptr() in taken:
            tensor = tensor.to("cpu", copy=True).contiguous()
        taken.add(tensor.data_ptr())
        whole[name] = tensor
    return whole


def _stands_alone(tensor: torch.Tensor) -> bool:
    """Whether a CPU tensor is contiguous and the only part of its storage, so that it can be written as it is."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.device.type == "cpu" and tensor.is_contiguous() and whole


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def _damaged(path: Path, why: str, advice: str) -> MmfastError:
    return MmfastError(f"checkpoint '{path}' is damaged: {why}; {advice}")
