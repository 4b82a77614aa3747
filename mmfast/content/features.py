"""From a prepared folder's texts and pictures to its features: encode, write, and put the manifest in place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mmfast.content.encode import EncodedFeatures
from mmfast.content.encoders import EncodeConfig, load_encoder, parse_encoder
from mmfast.content.images import find_pictures
from mmfast.content.item_texts import item_texts, need_texts
from mmfast.content.store import Store
from mmfast.data.hashing import hash_file
from mmfast.data.manifest import read_manifest
from mmfast.data.prepared import read_table
from mmfast.data.readers.amazon2014 import ImageRecords
from mmfast.data.replace_features import PART, replace_features
from mmfast.data.storage import locked, new_folder
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmfast.data.raw import FeatureSource


AMAZON_PAGE = "http://jmcauley.ucsd.edu/data/amazon/links.html"  # all that was published of 2014


@dataclass
class CnnFile(ImageRecords):
    """Amazon's published 4096-d vectors: `image_features_<category>.b`, one record per ASIN."""

    def sidecar(self) -> dict[str, Any]:
        """Return what the feature's sidecar tells: which file it was."""
        return {"settings": {"encoder": self.encoder, "file": self.path.name, "sha256": hash_file(self.path)}}


def write_features(
    folder: Path | str,
    configs: Mapping[str, EncodeConfig],
    *,
    store: Store | None = None,
    pictures: Sequence[Path | str] = (),
    out: Path | str | None = None,
    show: bool = False,
) -> Path:
    """Encode modalities ("image", "text") of a prepared folder, or of its copy `out`, and return the changed folder.

    Pictures are looked for in `pictures`, then in the folder. Blocks that the store has are not computed again, so
    that a killed call continues where it was, to the same bytes. Old features of these modalities are removed.
    Raises MmfastError for an unknown encoder, weights that are not there, or items without any content.

    >>> write_features("data/shop", {"text": EncodeConfig(model="minilm")})  # doctest: +SKIP
    """
    return write_sources(folder, feature_sources(folder, configs, store=store, pictures=pictures, show=show), out)


def feature_sources(
    folder: Path | str,
    configs: Mapping[str, EncodeConfig],
    *,
    store: Store | None = None,
    pictures: Sequence[Path | str] = (),
    show: bool = False,
) -> dict[str, FeatureSource]:
    """Return the sources of modalities' rows, models loaded and nothing encoded; as `write_features` takes them."""
    folder, store = Path(folder), store or Store()
    store.sweep()
    read_manifest(folder)
    items = read_table(folder, "items.parquet")
    return {m: feature_source(m, one, items, [*pictures, folder], store, show) for m, one in configs.items()}


def write_sources(folder: Path | str, sources: Mapping[str, FeatureSource], out: Path | str | None = None) -> Path:
    """Encode `feature_sources` into the prepared folder, or its copy `out`, and return the changed folder."""
    with target_folder(Path(folder), out) as target:
        replace_features(target, sources)
    return Path(folder) if out is None else Path(out)


def feature_source(
    modality: str, config: EncodeConfig, items: pl.DataFrame, folders: Sequence[Path | str], store: Store, show: bool
) -> FeatureSource:
    """Return the source of one modality's rows, its model loaded, for `mmfast.data.replace_features`."""
    spec = parse_encoder(modality, config.model)
    if spec.family == "amazon-cnn":
        if config.dtype != "float32" or config.missing != "mean":
            raise MmfastError(
                "amazon-cnn: the published vectors are taken as they are: float32, missing as the mean row"
            )
        path = Path(spec.rest).expanduser()
        if not path.is_file():
            raise MmfastError(
                f"image encoder '{spec.name}': there is no file '{path}'; want image_features_<category>.b from "
                f"{AMAZON_PAGE} (visual features), or use --image light"
            )
        return CnnFile(path)
    model = load_encoder(modality, config)  # first: hashing all pictures takes longer than to find no weights
    contents = find_pictures(items, folders) if modality == "image" else need_texts(item_texts(items, config.string))
    return EncodedFeatures(model, contents, config, store, show)


def refuse_existing(out: Path | str | None) -> None:
    """Raise MmfastError when the copy to be written is there; also for a look before a long stage."""
    if out is not None and Path(out).exists():
        raise MmfastError(f"--out: '{out}' exists already; choose another folder")


@contextmanager
def target_folder(folder: Path, out: Path | str | None) -> Iterator[Path]:
    """Yield the folder itself, or a whole copy that becomes `out` when the block ends well."""
    if out is None:
        yield folder
        return
    refuse_existing(out)
    with new_folder(Path(out)) as work:
        with locked(folder, shared=True):  # a writer of the original would take files away meanwhile
            shutil.copytree(folder, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns(f"{PART}*", "*.part"))
        yield work
