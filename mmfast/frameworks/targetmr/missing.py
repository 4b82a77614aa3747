"""What a run of TargetMR on a catalogue that is not here yet will need beside it, told all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mmfast.config import DataConfig
from mmfast.content.encode_clip import check_weights
from mmfast.content.hub_models import check_model
from mmfast.content.label import INSTEAD as NO_LABELLER
from mmfast.content.parse import check_pipeline
from mmfast.content.segment_sam import SamSegmenter
from mmfast.data.locate import DEMO, locate
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from mmfast.frameworks.targetmr.settings import TargetMRConfig

NO_CLIP = "With the file on this machine: framework.objects.encoder=clip:MODEL:FILE; without it: light"
TEXTS = (
    "framework: TargetMR reads texts and photos: it needs the raw review and meta files of the data set, not a folder "
    "prepared by others, and the photos (`imUrl` of the meta files has their addresses) in a folder, named by item id"
)


def missing_parts(config: TargetMRConfig, data: DataConfig) -> list[str]:
    """Return a sentence each for what is not on this machine; [] where the data are, for the stages tell it then.

    Which parts a catalogue needs shows in its texts and photos: one without photos needs no masks.
    """
    objects, checks = config.objects, dict[str, Callable[[], object]]()
    if objects.file is not None or data.name == DEMO or _is_here(data):
        return []
    checks["objects.parse.pipeline"] = lambda: check_pipeline(objects.parse.pipeline)
    if isinstance(objects.segmenter, SamSegmenter):
        checks["objects.segmenter"] = objects.segmenter.path
    if not objects.encoder.startswith("light"):
        checks["objects.encoder"] = lambda: check_weights(objects.encoder, NO_CLIP)
    if config.labels.by == "local" and config.selectors is None:
        checks["labels"] = lambda: check_model(config.labels.local.model, NO_LABELLER)
    found = [TEXTS]
    found += [f"framework.objects.pictures: no folder '{path}'" for path in objects.pictures if not Path(path).is_dir()]
    for setting, check in checks.items():
        try:
            check()
        except MmfastError as error:
            found.append(f"framework.{setting}: {error}")
    return found


def _is_here(data: DataConfig) -> bool:
    try:
        locate(data.name, data.root)
    except MmfastError:
        return False
    return True
