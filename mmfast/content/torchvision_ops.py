"""Lets torchvision be imported beside a torch that its compiled operators were not built for, such as a CPU torch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_LIBRARY: list[torch.library.Library] = []  # a library that is freed takes its operators with it


def prepare_torchvision() -> bool:
    """Register what torchvision's import needs where its own operators cannot load; True where that was necessary.

    PyPI's torchvision is built for CUDA. Beside a CPU torch its operators do not load, and the import fails with
    "operator torchvision::nms does not exist", in torchvision and in all that import it: open_clip, timm,
    transformers, sentence_transformers. Call this before the first of them; where the operators load, or there is no
    torchvision, nothing is done.

    >>> prepare_torchvision()  # doctest: +SKIP
    """
    if _LIBRARY:
        return True
    if "torchvision" in sys.modules or hasattr(torch.ops.torchvision, "nms"):
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _own_operators_load(Path(spec.origin).parent):
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    library.impl("nms", nms, "CUDA")
    _LIBRARY.append(library)
    from torchvision import extension

    # torchvision.ops.nms asks this first, and would name a mismatch of versions as the reason.
    extension._has_ops = _has_nms
    return True


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return the indices int64 [k] of the boxes to keep, best score first: non-maximum suppression.

    boxes [n, 4] hold x1, y1, x2, y2; a box is dropped when it overlaps one of a higher score by more than the
    threshold (intersection over union).

    >>> nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([0.1, 0.9]), 0.5)
    tensor([1])
    """
    order = scores.argsort(descending=True, stable=True)
    corners = boxes[order].double()
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    kept: list[int] = []
    left = torch.arange(len(order), device=boxes.device)
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        low = torch.maximum(corners[best, :2], corners[left, :2])
        high = torch.minimum(corners[best, 2:], corners[left, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        left = left[shared <= iou_threshold * (area[best] + area[left] - shared)]
    return order[torch.tensor(kept, dtype=torch.int64, device=boxes.device)]


def _own_operators_load(folder: Path) -> bool:
    for path in sorted(folder.glob("_C*.so")):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            return False
        return True
    return False


def _has_nms() -> bool:
    return True
