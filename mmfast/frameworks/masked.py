"""masked: plain training with modalities hidden from every pass; all but one hidden makes a uni-modal teacher."""

from __future__ import annotations

from mmfast.config import FrameworkConfig
from mmfast.frameworks.base import Framework
from mmfast.models.base import Recommender
from mmfast.registry import FRAMEWORKS


@FRAMEWORKS.register("masked")
class Masked(Framework):
    """The model sees the mean feature row, and the mean user preference, of the modalities in `hide` (Eq. 8)."""

    class Config(FrameworkConfig):
        """Options of masked."""

        hide: tuple[str, ...] = ()
        """Modalities hidden in training and in evaluation."""

    doors = ("hide",)
    over_ranks = True

    def __init__(self, inner: Recommender | Framework, config: Config | None = None) -> None:
        super().__init__(inner, config)
        self.model.mask(self.config.hide)
