"""Texts to vectors by a causal language model's last token, as e5-mistral-7b-instruct is used for documents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field

from mmfast.config import Config
from mmfast.content.devices import enough_memory, pick_device
from mmfast.content.encoders import computed_by
from mmfast.content.hub_models import find_model, load_network, load_part
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from mmfast.content.encoders import EncodeConfig, Spec

INSTEAD = (
    "With its folder on this machine: give the folder; without it: a smaller encoder (minilm) or the light one (light)"
)


class LastTokenSettings(Config):
    """An encoder of documents by the last token of a causal language model."""

    model: str = "e5-mistral-7b-instruct"
    """Preset, name on Hugging Face, or folder as save_pretrained writes it."""
    max_tokens: int = Field(512, ge=2)
    """Longer texts are cut; the end token is among these (e5-mistral takes up to 4096)."""
    normalize: bool = True
    """Divide every vector by its length."""
    batch_size: int = Field(8, ge=1)
    """Texts encoded at once."""
    device: str = "auto"
    """auto (CUDA where torch sees a GPU, else the CPU), cpu, cuda or cuda:N."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the weights and of the computation; vectors are float32."""


class LastTokenEncoder:
    """Encodes texts by the hidden state of their last token: no instruction, the end token last, L2-normalised.

    e5-mistral's card puts an instruction in front of queries and nothing in front of documents; items are documents.

    `settings` are JSON values that, with the texts of a call, determine the rows; the weights are among them, by their
    content. The weights load at the first text. Raises MmfastError when they cannot be had or there is no end token.

    >>> LastTokenEncoder(LastTokenSettings()).encode(["A red mug."]).shape  # doctest: +SKIP
    (1, 4096)
    """

    transform = None  # texts are encoded as they are

    def __init__(self, settings: LastTokenSettings) -> None:
        self._options, self._files = settings, find_model(settings.model, INSTEAD)
        self.name = f"last-token:{self._files.name}"
        own = settings.model_dump(include={"max_tokens", "normalize", "batch_size", "dtype"})
        own |= {"transformers": version("transformers"), **computed_by(pick_device(settings.device))}
        self.settings = {"encoder": self.name, "weights": self._files.version, **own}

    @cached_property
    def dim(self) -> int:
        """Width F of the vectors, read without the weights."""
        from transformers import AutoConfig

        return int(load_part(AutoConfig, self._files).hidden_size)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded at first use."""
        from transformers import AutoTokenizer

        tokenizer = load_part(AutoTokenizer, self._files)
        if tokenizer.eos_token_id is None:
            raise MmfastError(
                f"the tokenizer of '{self._options.model}' has no end token, which this encoder reads; choose "
                "another model, or sentence:NAME_OR_FOLDER"
            )
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The model without its language head, loaded at first use."""
        from transformers import AutoModel

        network = load_network(AutoModel, self._files, self._options.dtype)
        with enough_memory(self.name):
            return network.to(pick_device(self._options.device))

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n, F]; texts of like length share a batch, so the bits depend on all texts of the call."""
        tokens = [self.tokens(text) for text in texts]
        order = sorted(range(len(tokens)), key=lambda n: len(tokens[n]))
        rows = np.zeros((len(tokens), self.dim), np.float32)
        for start in range(0, len(order), self._options.batch_size):
            batch = order[start : start + self._options.batch_size]
            rows[batch] = self._encode([tokens[n] for n in batch])
        return rows

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of a text, at most `max_tokens`, the last one being the end token."""
        end, most = self.tokenizer.eos_token_id, self._options.max_tokens
        ids = self.tokenizer(text, truncation=True, max_length=most)["input_ids"]
        return ids if ids[-1:] == [end] else [*ids[: most - 1], end]

    @torch.inference_mode()
    def _encode(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        longest = max(map(len, tokens))
        device = self.model.device
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tokens], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in tokens], device=device)
        hidden = self.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        rows = last_token(hidden, mask).float()
        rows = torch.nn.functional.normalize(rows, dim=-1) if self._options.normalize else rows
        return rows.cpu().numpy()


def last_token_encoder(spec: Spec, config: EncodeConfig) -> LastTokenEncoder:
    """Return the encoder `last-token:MODEL` for one modality; what the config leaves open is as e5-mistral wants it.

    `precision` is the type of the weights here, bfloat16 unless it is given; `batch_size` is 8 unless it is given.
    """
    given = {name: getattr(config, name) for name in ("batch_size", "device") if name in config.model_fields_set}
    if "precision" in config.model_fields_set:
        given["dtype"] = config.precision
    if config.max_length == 1:
        raise MmfastError("--max-length 1: a last-token encoder needs at least 2, as its end token is one of them")
    if config.max_length is not None:
        given["max_tokens"] = config.max_length
    return LastTokenEncoder(LastTokenSettings(model=spec.rest, **given))


def last_token(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return [B, F]: of states [B, T, F], those at the last 1 of each row of the mask [B, T], padded left or right.

    >>> last_token(torch.arange(6.0).view(1, 3, 2), torch.tensor([[1, 1, 0]]))
    tensor([[2., 3.]])
    """
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
