"""Encoded objects of all items: what stages 1 to 3 of TargetMR learn from, as one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmfast.checkpoint import atomic_write
from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.ragged import Ragged, offsets
from mmfast.frameworks.targetmr.select import TextVectors

_TEXT = ("texts", "words", "contexts", "position", "positions", "ptr")
FORMAT = "mmfast-targetmr-objects-1"


@dataclass(frozen=True)
class ItemObjects:
    """Vectors of the objects that texts name and photos show, all of one width D.

    text: see `TextVectors`; image: masks of all items, the largest first (Eq. 15); photos: float [I, D], whole photos,
    zeros where there is none; has_text, has_photo: bool [I]; encoder: identity of the model that made them.
    """

    text: TextVectors
    image: Ragged
    photos: Tensor
    has_text: Tensor
    has_photo: Tensor
    encoder: str = ""

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def dim(self) -> int:
        """Width D of all vectors."""
        return self.photos.shape[1]

    def modalities(self) -> tuple[str, ...]:
        """Return which of text and image any item has."""
        return tuple(m for m, has in (("text", self.has_text), ("image", self.has_photo)) if bool(has.any()))

    def save(self, path: Path | str) -> None:
        """Write everything into one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self.text, name) for name in _TEXT} | {
            "masks": self.image.values,
            "mask_ptr": self.image.ptr,
            "photos": self.photos,
            "has_text": self.has_text,
            "has_photo": self.has_photo,
        }
        solid = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        about = {"format": FORMAT, "encoder": self.encoder}
        atomic_write(Path(path), lambda work: save_file(solid, work, metadata=about))

    @classmethod
    def load(cls, path: Path | str) -> ItemObjects:
        """Return what `save` wrote. Raises MmfastError for a file that is not there or of another kind."""
        read, about = read_tensors(path, FORMAT, "encoded objects", "mmfast targetmr objects --out FILE")
        text = TextVectors(**{name: read[name] for name in _TEXT})
        image = Ragged(read["masks"], read["mask_ptr"])
        return cls(text, image, read["photos"], read["has_text"], read["has_photo"], about["encoder"])

    def to(self, device: torch.device) -> ItemObjects:
        """Return the same on a device."""
        text = TextVectors(**{name: getattr(self.text, name).to(device) for name in _TEXT})
        image = Ragged(self.image.values.to(device), self.image.ptr.to(device))
        rest = (self.photos.to(device), self.has_text.to(device), self.has_photo.to(device))
        return ItemObjects(text, image, *rest, self.encoder)


def read_tensors(
    path: Path | str, form: str, what: str, command: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file. Raises MmfastError unless its format is `form`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise MmfastError(f"{what} '{path}' cannot be read ({error}); write them with `{command}`") from None
    if about.get("format") != form:
        raise MmfastError(f"'{path}' holds no {what}; write them with `{command}`")
    return tensors, about


def join_objects(parts: Sequence[ItemObjects]) -> ItemObjects:
    """Return the items of several catalogues one after the other, to train selectors on their union.

    Raises MmfastError where they were encoded by different models.
    """
    encoders = {part.encoder for part in parts}
    if len(encoders) > 1:
        raise MmfastError(
            f"targetmr: the sources were encoded by {len(encoders)} different models ({', '.join(sorted(encoders))}); "
            "encode all of them with one (encoder=...)"
        )
    first = parts[0]
    text = TextVectors(
        *(torch.cat([getattr(part.text, name) for part in parts]) for name in _TEXT[:4]),
        positions=first.text.positions,
        ptr=offsets(torch.cat([part.text.ptr.diff() for part in parts])),
    )
    image = Ragged(torch.cat([p.image.values for p in parts]), offsets(torch.cat([p.image.counts for p in parts])))
    rest = (torch.cat([getattr(part, name) for part in parts]) for name in ("photos", "has_text", "has_photo"))
    return ItemObjects(text, image, *rest, first.encoder)
