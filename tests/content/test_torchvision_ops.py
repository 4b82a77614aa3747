"""torchvision and what stands on it can be imported, and its nms gives what the definition says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmfast.content.torchvision_ops import nms, prepare_torchvision


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("count", [0, 1, 37])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_is_its_definition(count, threshold):
    generator = torch.Generator().manual_seed(count)
    low = torch.rand(count, 2, generator=generator)
    boxes = torch.cat([low, low + 0.05 + torch.rand(count, 2, generator=generator)], 1)
    scores = torch.rand(count, generator=generator)
    kept = []
    for n in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[n].tolist(), boxes[k].tolist()) <= threshold for k in kept):
            kept.append(n)
    assert nms(boxes, scores, threshold).tolist() == kept


def test_torchvision_is_imported_in_a_fresh_process():
    code = (
        "import sys\n"
        "from mmfast.content.torchvision_ops import prepare_torchvision\n"
        "assert not any(name in sys.modules for name in ('torchvision', 'open_clip'))\n"
        "first = prepare_torchvision()\n"
        "assert prepare_torchvision() == first\n"
        "import torch, torchvision.ops\n"
        "boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]]), torch.tensor([0.1, 0.9, 0.5])\n"
        "print(torchvision.ops.nms(boxes, scores, 0.5).tolist())\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1, 2]\n"


def test_a_second_call_changes_nothing():
    prepare_torchvision()
    import torchvision

    assert torchvision.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    prepare_torchvision()
