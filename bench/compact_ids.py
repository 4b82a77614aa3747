"""Time of renumbering the ids of a batch, against eager PyTorch."""

from __future__ import annotations

import torch
from _common import emit, measure, shapes, stream_bandwidth
from _losses import index, options

from mmfast.ops import compact_ids


def case(chosen, name):
    """Measure the distinct rows of a batch of triples of one shape."""
    rows = shapes[name].num_nodes
    ids = index(chosen, rows, 3, chosen.batch)
    least = 8 * 3 * ids.numel() + rows // 8  # read; the rows and places written; a bit of every row
    facts = {"device": chosen.device, "repeat": chosen.repeat, "limit": stream_bandwidth(chosen.device)}
    others = {"torch.unique": lambda: torch.unique(ids, return_inverse=True)}
    label = f"{name} {ids.numel()} ids of {rows}"
    return measure("compact_ids", label, "forward", lambda: compact_ids(ids, rows), others, least_bytes=least, **facts)


def main():
    """Measure a batch of triples of every shape."""
    chosen = options(__doc__)
    for name in chosen.shapes:
        emit(case(chosen, name), chosen.json)


if __name__ == "__main__":
    main()
