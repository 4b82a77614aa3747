"""Every setting of TargetMR: the paper's number, or the reading that docs/targetmr.md gives, as a named default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmfast.config import Config, DataConfig, FrameworkConfig
from mmfast.content.label import LabelSettings
from mmfast.content.parse import ParseConfig
from mmfast.content.segment_light import LightSegmenter
from mmfast.content.segment_sam import SamSegmenter
from mmfast.content.text_objects import ObjectRule
from mmfast.frameworks.targetmr.mlp import StageConfig
from mmfast.frameworks.targetmr.refine import RefineConfig

Part = Literal["POS", "SYP", "ITS", "RRF", "TAL"]
Modality = Literal["text", "image"]


class ObjectSettings(Config):
    """Stage 0: how objects are found in texts and photos, and which model encodes them."""

    encoder: str = Field("clip", min_length=1)
    """clip (ViT-B/32, the paper's) or another of `mmfast features`' CLIP forms; light: a small encoder trained on the
    catalogue's own photos and texts; light:FILE: one that `mmfast targetmr objects --keep-encoder FILE` wrote."""
    file: str | None = None
    """Encoded objects from `mmfast targetmr objects --out FILE`, in place of everything below."""
    parse: ParseConfig = ParseConfig()
    rule: ObjectRule = ObjectRule()
    segmenter: Annotated[SamSegmenter | LightSegmenter, Field(discriminator="kind")] = SamSegmenter()
    """{kind: sam, ...} or {kind: light, ...} with the settings of `mmfast features segment`."""
    masks: int = Field(5, ge=1, le=8)
    """Largest masks per photo, z; the paper gives no number, its case study shows at least 4."""
    fill: Literal["black", "mean"] = "black"
    """What stands outside a mask: black (Eq. 4 as printed) or the photo's mean colour."""
    crop: bool = False
    """Cut to the box of a mask; the paper keeps the whole frame."""
    context: int = Field(16, ge=1)
    """Words of context round an object, k (best on Electronics); the grid is 2, 4, 8, 16, 32."""
    pictures: tuple[str, ...] = ()
    """Folders of the picture files, where they lie elsewhere than the data."""
    processes: int = Field(1, ge=1)
    """Processes of the light segmenter; the result is the same."""


class TargetMRConfig(FrameworkConfig):
    """Options of TargetMR."""

    modalities: tuple[Modality, ...] | None = Field(None, min_length=1)
    """Which features the backbone reads: text, image or both; None: all that the catalogue has."""
    without: tuple[Part, ...] = ()
    """Parts left out (the paper's ablations): POS and SYP of Eq. 3, ITS the image targets, RRF the refinement, TAL the
    attention and the extended graph."""
    objects: ObjectSettings = ObjectSettings()
    labels: LabelSettings = LabelSettings()
    selectors: str | None = None
    """Selectors from `mmfast targetmr select` or `transfer`, so that no label is needed here."""
    select: StageConfig = StageConfig()
    positions: Literal["clip", "learned"] = "clip"
    """clip: CLIP's frozen row of the word's place; learned: a table of its own, Xavier normal."""
    normalize_each: bool = False
    """Bring both parts of an object (Eq. 14) to length 1 before they are added; the paper adds them as they are."""
    refine: RefineConfig = RefineConfig()
    attention: Literal["linear", "tanh"] = "linear"
    """linear: Eq. 21 as printed, which cannot depend on the target; tanh: ours, which can."""
    eta: float = Field(0.7, ge=-1, le=1)
    """Least similarity of items that extend the graph (best on Electronics); the grid is 0.1, 0.3, 0.5, 0.7, 0.9."""
    topk: int | None = Field(10, ge=1)
    """Most similar items taken per item; None: all above eta, as printed. The grid is 5, 10, 20, None."""
    max_edges: int | None = Field(None, ge=0)
    """Most edges of the extended graph, more is refused; None: 20 times the training rows."""
    freeze_graph_after_epoch: int | None = Field(None, ge=1)
    """Keep the extended graph after so many epochs; None: build it before every epoch."""
    refresh_item_graphs: bool = False
    """Also rebuild item graphs that the backbone made of the features, whenever the extended graph is; otherwise they
    stay those of the first epoch."""
    train_features: bool = False
    """Let backbones that train their feature tables (BM3, FREEDOM, MGCN, SMORE, ...) train one that is added to Eq. 20
    (Eq. 22 reads the features without it); in the paper W_t and W_g alone change them."""
    extended_positives: bool = False
    """Also train on extended edges as positives, one per row of the batch; the paper's graph carries messages alone."""
    reject_extended_negatives: bool = False
    """Leave rows out of a step whose negative is an extended edge of the user."""
    whole_image: Literal["clip", "data"] = "clip"
    """without=[ITS]: the whole photo by the encoder, or the data set's own image features."""

    def missing(self, data: DataConfig) -> list[str]:
        """Return what a run on data that are not here needs beside them, a sentence each."""
        from mmfast.frameworks.targetmr.missing import missing_parts

        return missing_parts(self, data)

    @property
    def object_rule(self) -> ObjectRule:
        """Eq. 3 with the parts left out that `without` names."""
        changes = {name: () for name, part in (("pos", "POS"), ("relations", "SYP")) if part in self.without}
        return self.objects.rule.model_copy(update=changes)

    def has(self, part: Part) -> bool:
        """Whether a part of the method is in use."""
        return part not in self.without
