"""Tuned features of a finished run as sources that a prepared folder takes, for any other model and framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfast.data.storage import save_npy
from mmfast.errors import MmfastError
from mmfast.frameworks.ptmrec.catalogue import kept_features

if TYPE_CHECKING:
    import polars as pl

    from mmfast.frameworks.ptmrec.config import PTMRecConfig
    from mmfast.run import Run


@dataclass(frozen=True)
class TunedRows:
    """Rows float32 [I, F] of one modality with their origin, as `mmfast.data.replace_features` takes them."""

    rows: np.ndarray
    items: pl.Series
    missing: np.ndarray
    encoder: str
    origin: str
    settings: dict[str, Any]

    def write(self, path: Path, modality: str, codes: np.ndarray, ids: pl.Series) -> np.ndarray:
        """Save the rows; raises MmfastError unless the folder's items are the run's, in the same order."""
        if not ids.equals(self.items):
            raise MmfastError(
                f"features '{modality}': the run knows {len(self.items)} items and the folder has {len(ids)}, or "
                "others; give the folder that the run was trained on"
            )
        save_npy(path, self.rows)
        return self.missing

    def sidecar(self) -> dict[str, Any]:
        """Return what the feature's sidecar tells of the run."""
        return {"settings": self.settings}


def tuned_features(run: Run) -> dict[str, TunedRows]:
    """Return the tables F_m of a finished run (step 8), by modality: CLIP's part, without the backbone's own delta.

    Where stage 1 was better these are frozen CLIP's. Raises MmfastError for a run of another framework.

    >>> replace_features("data/shop", tuned_features(Run.load("runs/shop_freedom_ptmrec")))  # doctest: +SKIP
    """
    section = _section(run)
    settings = {**section.model_dump(mode="json"), "stage": run.metrics.get("stage", "first")}
    described = f"{section.encoder} tuned by {section.tuning.method}s with {run.config.model.name}"
    found = {}
    for modality in section.modalities:
        source = run.model.sources[modality]
        rows = source.table.cpu().numpy()
        missing = np.load(kept_features(run.folder) / f"{modality}-missing.npy")
        found[modality] = TunedRows(rows, run.dataset.item_ids, missing, described, run.folder.name, settings)
    return found


def settings_of_features(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Return modality -> setting -> features [I, F] of a finished run: the data's own, frozen CLIP's, tuned CLIP's.

    Raises MmfastError for a run of another framework.
    """
    kept, found = kept_features(run.folder), {}
    for modality in _section(run).modalities:
        own = {"original": run.dataset.features[modality]} if modality in run.dataset.features else {}
        tuned = run.model.sources[modality].table.cpu().numpy()
        found[modality] = {**own, "CLIP": np.load(kept / f"{modality}.npy"), "PTMRec": tuned}
    return found


def _section(run: Run) -> PTMRecConfig:
    sections = [section for section in run.config.framework if section.name == "ptmrec"]
    if not sections:
        raise MmfastError(f"run '{run.folder}' was not trained with ptmrec; it has no tuned features")
    return sections[0]
