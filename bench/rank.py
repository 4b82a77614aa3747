"""rank beside torch blocks of 4096 and 128 users (product, mask, top-k) with hits in Python and vectorised.

Run from the repository: `python bench/rank.py [--shapes baby sports] [--precision bfloat16] [--json]`.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from _cli import emit_shapes, parse, shape_parser
from _common import measure, power_law_edges, shapes
from _gemm import add_flop_limit, gemm_flops

from mmfast.ops.rank import rank

WIDTH, K = 64, 50


def lists(users: np.ndarray, items: np.ndarray, num_users: int) -> tuple[torch.Tensor, torch.Tensor]:
    """CSR rows per user of pairs sorted by user then item."""
    ptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=num_users))])
    return torch.tensor(ptr), torch.tensor(items, dtype=torch.int32)


def torch_blocks(users, items, mask_ptr, mask_items, block: int) -> torch.Tensor:
    """Score a block of users against all items, mask, take the top k."""
    top = []
    for begin in range(0, len(users), block):
        scores = users[begin : begin + block] @ items.T
        ptr = mask_ptr[begin : begin + block + 1]
        rows = torch.repeat_interleave(torch.arange(len(ptr) - 1), ptr.diff())
        scores[rows, mask_items[ptr[0] : ptr[-1]].long()] = -1e10
        top.append(scores.topk(min(K, len(items))).indices)
    return torch.cat(top)


def python_hits(top: torch.Tensor, target_ptr, target_items) -> list[list[bool]]:
    """Look every recommended item up in the user's target set, one at a time."""
    bounds, wanted = target_ptr.tolist(), target_items.tolist()
    return [[i in set(wanted[bounds[u] : bounds[u + 1]]) for i in row] for u, row in enumerate(top.tolist())]


def tensor_hits(top: torch.Tensor, target_ptr, target_items, num_items: int) -> torch.Tensor:
    """Look all recommended items up at once, by one key per (user, item)."""
    owner = torch.repeat_interleave(torch.arange(len(target_ptr) - 1), target_ptr.diff())
    return torch.isin(top + num_items * torch.arange(len(top))[:, None], owner * num_items + target_items)


def run(name: str, arguments: argparse.Namespace) -> list[dict]:
    """Measure one shape: all items, and the coldest tenth of them alone."""
    shape, precision = shapes[name], arguments.precision
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, WIDTH, generator=generator) for n in (shape.num_users, shape.num_items))
    mask = lists(*power_law_edges(shape), shape.num_users)
    targets = lists(*power_law_edges(shape._replace(num_edges=shape.num_edges // 6), seed=1), shape.num_users)
    cold = torch.bincount(mask[1], minlength=len(items)).argsort()[: len(items) // 10].sort().values.int()
    chosen = items[cold.long()]
    nothing = torch.zeros(len(users) + 1, dtype=torch.int64), mask[1][:0]
    every = {
        "torch blocks of 4096, Python hits": lambda: python_hits(torch_blocks(users, items, *mask, 4096), *targets),
        "torch blocks of 4096": lambda: tensor_hits(torch_blocks(users, items, *mask, 4096), *targets, len(items)),
        "torch blocks of 128": lambda: tensor_hits(torch_blocks(users, items, *mask, 128), *targets, len(items)),
    }
    some = {"torch blocks of 128, no masks or hits": lambda: torch_blocks(users, chosen, *nothing, 128)}
    passes = [
        (f"all items ({precision})", None, every, len(items)),
        (f"a tenth ({precision})", cold, some, len(cold)),
    ]
    limit, cases = gemm_flops(), []
    for kind, candidates, others, ranked in passes:
        k = min(K, ranked)
        facts = {
            "least_bytes": 4 * WIDTH * (len(users) + ranked) + 4 * shape.num_edges + 9 * k * len(users),
            "least_flops": 2 * WIDTH * len(users) * ranked,
            "repeat": arguments.repeat,
        }
        label = f"{name} {len(users)}x{ranked} D={WIDTH} k={k}"
        ours = partial(rank, users, items, *mask, *targets, k, candidates, precision)
        cases.append(add_flop_limit(measure("rank", label, kind, ours, others, **facts), limit))
    return cases


def main() -> None:
    """Parse the arguments and print the cases of every shape."""
    parser = shape_parser(__doc__, ["baby"], repeat=9)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    emit_shapes(parse(parser), run)


if __name__ == "__main__":
    main()
