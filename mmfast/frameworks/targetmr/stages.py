"""Stages 1 and 2: from encoded objects and labels to the targets and auxiliaries of every item (steps 4 to 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmfast.checkpoint import atomic_write
from mmfast.content.store import Store, content_key
from mmfast.data.hashing import hash_array
from mmfast.errors import MmfastError
from mmfast.frameworks.targetmr.objects import ItemObjects, read_tensors
from mmfast.frameworks.targetmr.pool import Side
from mmfast.frameworks.targetmr.ragged import Ragged
from mmfast.frameworks.targetmr.refine import (
    Pairs,
    Refinement,
    choose_image_targets,
    refined,
    similarities,
    train_refinement,
)
from mmfast.frameworks.targetmr.select import TextTargetSelector, train_selector
from mmfast.frameworks.targetmr.settings import TargetMRConfig
from mmfast.seeds import derive_generator

KIND = "targetmr-stages"
FORMAT = "mmfast-targetmr-selectors-2"
READINGS = {"select": {"activation"}, "refine": {"activation"}, "positions": True, "normalize_each": True}
TEXT, IMAGE, ACCURACY, LOSS = "text/", "image/", "accuracy", "loss"


@dataclass(frozen=True)
class Selectors:
    """f_sel and f_ref after training; None where there was nothing to train (no texts, no photos, w/o RRF).

    accuracy: share of held-out labels found, by epoch; loss: held-out L_CL, by epoch; encoder: whose vectors they read;
    readings: the settings, as JSON, without which their weights mean something else.
    """

    text: TextTargetSelector | None
    image: Refinement | None
    accuracy: Sequence[float] = ()
    loss: Sequence[float] = ()
    encoder: str = ""
    readings: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but the encoder's name as tensors."""
        found = {ACCURACY: torch.tensor(self.accuracy).double(), LOSS: torch.tensor(self.loss).double()}
        for prefix, module in ((TEXT, self.text), (IMAGE, self.image)):
            if module is not None:
                found |= {prefix + name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
        return found

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], config: TargetMRConfig, encoder: str) -> Selectors:
        """Return the selectors of `tensors()`; the readings are the config's."""
        states = {p: {n[len(p) :]: t for n, t in tensors.items() if n.startswith(p)} for p in (TEXT, IMAGE)}
        text = image = None
        start = derive_generator(0)
        if states[TEXT]:
            positions = states[TEXT]["positions"]
            text = TextTargetSelector(positions, config.select.activation, config.positions == "learned", start)
            text.load_state_dict(states[TEXT])
        if states[IMAGE]:
            image = Refinement(states[IMAGE]["stem.bias"].numel(), config.refine, start)
            image.load_state_dict(states[IMAGE])
        told = (tensors[name].tolist() for name in (ACCURACY, LOSS))
        return cls(*(None if m is None else m.eval() for m in (text, image)), *told, encoder, readings_of(config))

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        about, tensors = {"format": FORMAT, "encoder": self.encoder, "readings": self.readings}, self.tensors()
        atomic_write(Path(path), lambda work: save_file({n: t.clone() for n, t in tensors.items()}, work, about))

    @classmethod
    def load(cls, path: Path | str, config: TargetMRConfig) -> Selectors:
        """Return what `save` wrote.

        Raises MmfastError for a file that is not there or of another kind, and for one trained with other readings.
        """
        tensors, about = read_tensors(path, FORMAT, "selectors", "mmfast targetmr select --out FILE")
        if about["readings"] != readings_of(config):
            raise MmfastError(
                f"selectors '{path}' were trained with {about['readings']}, but the settings are "
                f"{readings_of(config)}; set these as the file was trained, or train selectors with the settings"
            )
        return cls.of_tensors(tensors, config, about["encoder"])


@dataclass(frozen=True)
class Targets:
    """What stage 3 trains on, static: text and image sides (None: no such objects), and how they came about.

    before, after: cosine of each image object with its item's text target, before and after refinement, ragged;
    image_ptr: int64 [I + 1], whose they are.
    """

    text: Side | None
    image: Side | None
    before: Tensor
    after: Tensor
    image_ptr: Tensor


def train_selectors(
    objects: ItemObjects,
    labels: Tensor | None,
    config: TargetMRConfig,
    seed: int,
    device: torch.device | None = None,
) -> Selectors:
    """Return f_sel and f_ref trained on these objects (stages 1 and 2), from the store where it has them.

    labels: int64 [I], -1 for none; None only where no item has a text. Raises MmfastError as `train_selector` does.
    """
    store, key = Store(), _key(objects, labels, config, seed)
    kept = store.get(KIND, key)
    if kept is not None:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in kept.items()}
        return Selectors.of_tensors(tensors, config, objects.encoder)
    found = _trained(objects.to(device or torch.device("cpu")), labels, config, seed)
    store.put(KIND, key, {n: t.numpy() for n, t in found.tensors().items()}, {"model": objects.encoder[:40]})
    return found


def _trained(objects: ItemObjects, labels: Tensor | None, config: TargetMRConfig, seed: int) -> Selectors:
    text, accuracy, image, scores = None, [], None, []
    if bool(objects.has_text.any()) and bool((objects.text.ptr.diff() > 1).any()):
        labels = labels.to(objects.photos.device)
        found = train_selector(objects.text, labels, config.select, config.positions == "learned", seed)
        text, accuracy = found.selector, found.accuracy
    if config.has("RRF") and config.has("ITS") and objects.modalities() == ("text", "image"):
        image, scores = train_refinement(_pairs(objects, text, config), config.refine, seed)
    modules = (None if module is None else module.cpu() for module in (text, image))
    return Selectors(*modules, accuracy, [-score for score in scores], objects.encoder, readings_of(config))


def readings_of(config: TargetMRConfig) -> str:
    """Return the settings, as JSON, without which the weights of selectors mean something else."""
    return config.model_dump_json(include=READINGS)


def _key(objects: ItemObjects, labels: Tensor | None, config: TargetMRConfig, seed: int) -> str:
    tables = (*_text_tables(objects), objects.image.values, objects.image.ptr)
    inputs = [hash_array(table.numpy()) for table in tables]
    inputs.append("" if labels is None else hash_array(labels.numpy()))
    settings = config.model_dump(mode="json", include={"select", "refine", "positions", "normalize_each"})
    trained = sorted(set(config.without) & {"RRF", "ITS"})
    settings |= {"seed": seed, "without": trained, "torch": torch.__version__}
    return content_key(kind=KIND, model=objects.encoder, settings=settings, inputs=inputs)


def _text_tables(objects: ItemObjects) -> tuple[Tensor, ...]:
    text = objects.text
    return text.texts, text.words, text.contexts, text.position, text.positions, text.ptr


def text_side(objects: ItemObjects, selector: TextTargetSelector | None, config: TargetMRConfig) -> Side:
    """Return t~ of every item's target and auxiliaries (Eq. 14), the target chosen by s_txt (step 5).

    An item without a text gets the mean target and no auxiliaries.
    """
    if selector is None:
        chosen = torch.where(objects.text.ptr.diff() > 0, 0, -1)
    else:
        chosen = selector.choose(objects.text)
    return _side(objects.text.objects(config.normalize_each), chosen)


def _side(objects: Ragged, chosen: Tensor) -> Side:
    target, aux = objects.split(chosen)
    known = chosen >= 0
    if bool(known.any()):
        target[~known] = target[known].mean(0)
    return Side(target, aux, chosen)


def _pairs(objects: ItemObjects, selector: TextTargetSelector | None, config: TargetMRConfig) -> Pairs:
    text = text_side(objects, selector, config)
    image, aux = objects.image.split(choose_image_targets(objects.image, text.target))
    return Pairs(image, aux, text.target, text.aux, objects.has_text & objects.has_photo)


@torch.no_grad()
def choose_targets(objects: ItemObjects, selectors: Selectors, config: TargetMRConfig) -> Targets:
    """Return targets and auxiliaries of every item by trained selectors (steps 5 to 7 and 9); nothing is trained.

    The image target is chosen on the raw vectors, before refinement. Without any text it is the largest mask. An item
    without a photo gets the mean target and no auxiliaries. Raises MmfastError where the selectors read other vectors.
    """
    if selectors.encoder != objects.encoder:
        raise MmfastError(
            f"targetmr: the selectors read vectors of '{selectors.encoder[:60]}', but the objects were encoded by "
            f"'{objects.encoder[:60]}'; encode them with the same encoder"
        )
    modalities, image = objects.modalities(), None
    text = text_side(objects, selectors.text, config) if "text" in modalities else None
    before = after = objects.image.values.new_zeros(len(objects.image.values))
    if "image" in modalities and config.has("ITS"):
        new = refined(_refinement(selectors, modalities, config), objects.image)
        if text is None:
            chosen = torch.where(objects.image.counts > 0, 0, -1)
        else:
            chosen = choose_image_targets(objects.image, text.target)
            before, after = (similarities(table, text.target) for table in (objects.image, new))
        image = _side(new, chosen)
    return Targets(text, image, before, after, objects.image.ptr)


def _refinement(selectors: Selectors, modalities: Sequence[str], config: TargetMRConfig) -> nn.Module:
    if not config.has("RRF") or "text" not in modalities:  # the targets of photos alone have nothing to be refined by
        return nn.Identity()
    if selectors.image is None:
        raise MmfastError(
            "targetmr: these selectors hold no refinement (f_ref); write some that do (`mmfast targetmr refine` or "
            "`transfer`), or leave the refinement out (framework.without=[RRF])"
        )
    return selectors.image
