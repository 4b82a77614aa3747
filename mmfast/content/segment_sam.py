"""Objects of a photo by Segment Anything (Kirillov et al., ICCV 2023): masks of all of a grid of points."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from mmfast.config import Config
from mmfast.content.devices import enough_memory, pick_device
from mmfast.content.encoders import computed_by
from mmfast.content.weights import loading, missing_weights, need_package
from mmfast.data.cache import cache_root
from mmfast.data.hashing import hash_file
from mmfast.errors import MmfastError

FILES = {"vit_h": "sam_vit_h_4b8939.pth", "vit_l": "sam_vit_l_0b3195.pth", "vit_b": "sam_vit_b_01ec64.pth"}
PAGE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
INSTEAD = "Without it: the light segmenter (`mmfast features segment --with light`), which needs no weights"


class SamSegmenter(Config):
    """Settings of SAM's automatic masks, with the defaults of segment-anything 1.0.

    `points_per_side=16` is the fast profile for product photos: a quarter of the prompts.
    """

    kind: Literal["sam"] = "sam"
    """Which segmenter these settings are for."""
    model: Literal["vit_h", "vit_l", "vit_b"] = "vit_h"
    """Size of the image encoder; vit_b is the fast choice."""
    checkpoint: str | None = None
    """File with the weights; None: its published name in the folder `weights` of the cache (MMFAST_CACHE)."""
    side: int = Field(1024, ge=32)
    """Larger photos are reduced to this many pixels of their longer side, what SAM sees; masks have that size."""
    points_per_side: PositiveInt = 32
    """Prompts along a side of the grid."""
    points_per_batch: PositiveInt = 64
    """Prompts computed at once; a large GPU takes 256 and more."""
    pred_iou_thresh: float = Field(0.88, ge=0)
    """Masks that the model itself rates lower are left out."""
    stability_score_thresh: float = Field(0.95, ge=0)
    """Masks that change more with the threshold of their logits are left out."""
    stability_score_offset: float = 1.0
    """How far that threshold is moved to see it."""
    box_nms_thresh: float = Field(0.7, ge=0, le=1)
    """Of two masks whose boxes overlap more, the better rated stays."""
    crop_n_layers: int = Field(0, ge=0)
    """Layers of crops that are segmented too: 2^layer x 2^layer of them."""
    crop_nms_thresh: float = Field(0.7, ge=0, le=1)
    """As box_nms_thresh, between crops."""
    crop_overlap_ratio: float = Field(512 / 1500, ge=0, lt=1)
    """Share of the picture by which crops of the first layer overlap."""
    crop_n_points_downscale_factor: PositiveInt = 1
    """Divides points_per_side once per layer of crops."""
    min_mask_region_area: int = Field(0, ge=0)
    """Smaller holes and islands of a mask are removed; more than 0 needs OpenCV."""
    device: str = "auto"
    """auto (CUDA where torch sees a GPU, else the CPU), cpu, cuda or cuda:N."""

    def path(self) -> Path:
        """Return the file of the weights. Raises MmfastError naming file, page and alternative when it is not there."""
        name = FILES[self.model]
        path = Path(self.checkpoint).expanduser() if self.checkpoint else cache_root() / "weights" / name
        if not path.is_file():
            reason = f"there is no file '{path}'; SAM's weights are fetched by hand"
            raise missing_weights(f"SAM {self.model}", name, PAGE, reason, INSTEAD)
        return path

    def identity(self) -> str:
        """Model, hash of its weights, and what computes them: part of every key in the store.

        Masks are kept by thresholds and by their overlap, which the last digits of a device or a release can cross.
        Raises MmfastError as `load` does.
        """
        need_package("segment_anything", "masks of SAM")
        by = computed_by(pick_device(self.device))
        made = f"segment-anything-{version('segment-anything')}:torch-{by['torch']}:{by['device']}"
        return f"sam-{self.model}:{hash_file(self.path())}:{made}"

    def load(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return the function from a picture uint8 [H, W, 3] to its masks bool [H, W], the largest first.

        Raises MmfastError when segment-anything, the weights or OpenCV (where it is needed) are not there.
        """
        need_package("segment_anything", "masks of SAM")
        if self.min_mask_region_area > 0 and find_spec("cv2") is None:
            raise MmfastError(
                "min_mask_region_area > 0 needs OpenCV: `pip install opencv-python-headless`, or set it to 0"
            )
        from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

        path = self.path()
        with loading(f"SAM {self.model}", FILES[self.model], PAGE, INSTEAD):
            model = sam_model_registry[self.model](checkpoint=path)
        options = self.model_dump(exclude={"kind", "model", "checkpoint", "side", "device"})
        with self._enough_memory():
            model = model.to(pick_device(self.device))
        generator = SamAutomaticMaskGenerator(model, **options, output_mode="binary_mask")

        def masks_of(image: np.ndarray) -> list[np.ndarray]:
            with self._enough_memory():
                return _masks(generator, image)

        return masks_of

    def _enough_memory(self) -> AbstractContextManager[None]:
        return enough_memory(f"SAM {self.model}", "a smaller points_per_batch")


def _masks(generator: Any, image: np.ndarray) -> list[np.ndarray]:
    try:
        found = generator.generate(image)
    except IndexError:
        if generator.crop_n_layers == 0:
            raise
        # With crops, segment-anything 1.0 reads from an empty list when no mask survives (facebookresearch #614).
        return []
    return [one["segmentation"] for one in sorted(found, key=lambda one: -one["area"])]
