"""Packages and weights that are not there: one sentence that says which, where they come from, and what else works."""

from __future__ import annotations

import importlib.util
import os
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlparse

import torch

from mmfast.content.torchvision_ops import prepare_torchvision
from mmfast.doctor import install_line
from mmfast.errors import MmfastError

HUB = "https://huggingface.co"
CONNECT_SECONDS = 5.0


def need_package(module: str, purpose: str) -> None:
    """Raise MmfastError naming the extra where `module` is not installed; else make torchvision's import safe.

    >>> need_package("open_clip", "CLIP features")  # doctest: +SKIP
    """
    if importlib.util.find_spec(module) is None:
        raise MmfastError(f"{purpose} need the package {module}, which is not installed; {install_line('content')}")
    prepare_torchvision()


def need_hub_file(repo: str, files: Sequence[str], name: str, instead: str, want: str = "") -> None:
    """Raise MmfastError at once when none of `files` of a hub repository is in the cache and the hub is out of reach.

    The libraries' own retries take a minute before they say so. want: the weights, for the message, where `files` are
    small ones that come with them. Raises it also for a name that no repository can have.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
            return
    except HFValidationError:
        raise MmfastError(
            f"the weights of '{name}' cannot be loaded: '{repo}' is neither a folder that exists nor a name on Hugging "
            f"Face (MODEL or OWNER/MODEL of letters, digits, '-', '_' and '.', but no '--' or '..'). {instead}"
        ) from None
    offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None
    reason = offline or _unreachable(os.environ.get("HF_ENDPOINT") or HUB)
    if reason is not None:
        raise missing_weights(name, want or " or ".join(files), f"{HUB}/{repo}", reason, instead)


def missing_weights(name: str, file: str, page: str, reason: str, instead: str) -> MmfastError:
    """Return the error for weights that are neither here nor to be had; `instead` says how to go on without them."""
    return MmfastError(
        f"the weights of '{name}' are not on this machine and cannot be fetched ({reason}): want {file} from {page}. "
        f"{instead}"
    )


@contextmanager
def loading(name: str, file: str, page: str, instead: str) -> Iterator[None]:
    """Turn whatever a library raises while it fetches or loads weights into one sentence."""
    try:
        yield
    except (MmfastError, torch.OutOfMemoryError):  # a full GPU is no matter of the weights
        raise
    except Exception as error:  # each library has error types of its own, network errors among them
        raise MmfastError(
            f"the weights of '{name}' cannot be loaded ({first_line(error)}): want {file} from {page}. {instead}"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first sentence of an error: what follows is a library's advice, such as to drop its safeguards."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]


def _unreachable(address: str) -> str | None:
    """Return why the host of an address cannot be reached, None when it can, or when a proxy would decide that."""
    if urllib.request.getproxies():
        return None
    host = urlparse(address)
    try:
        port = host.port or (443 if host.scheme == "https" else 80)
        with socket.create_connection((host.hostname or "", port), timeout=CONNECT_SECONDS):
            return None
    except OSError as error:
        return f"{host.hostname} cannot be reached: {error.strerror or error}"
