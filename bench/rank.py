"""rank beside torch blocks of 4096 and 128 users (product, mask, top-k) with hits in Python and vectorised.

Run from the repository: `python bench/rank.py [--shapes baby sports] [--precision bfloat16] [--device cuda] [--json]`.
Where all users and items have more pairs than `MOST_PRODUCTS` gives the device, the first users alone are ranked, which
the case says. The limit is the rate of products of the type that proposes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from _cli import SIZES, emit_shapes, parse, shape_parser
from _common import leave_out, measure, power_law_edges, shapes
from _gemm import add_flop_limit, gemm_flops, product_type

from mmfast.ops.rank import rank

WIDTH, K = 64, 50
MOST_PRODUCTS = {"cpu": 2 << 30, "cuda": 64 << 30}  # scores of one call, some seconds
BLOCK_SCORES = 1 << 29  # of a block of PyTorch


def lists(users: np.ndarray, items: np.ndarray, num_users: int) -> tuple[torch.Tensor, torch.Tensor]:
    """CSR rows per user of pairs sorted by user then item."""
    ptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=num_users))])
    return torch.tensor(ptr), torch.tensor(items, dtype=torch.int32)


def first_rows(rows: tuple[torch.Tensor, torch.Tensor], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first CSR rows alone."""
    ptr, items = rows
    return ptr[: count + 1], items[: ptr[count]]


def torch_blocks(users, items, mask_ptr, mask_items, block: int) -> torch.Tensor:
    """Score a block of users against all items, mask, take the top k."""
    top = []
    for begin in range(0, len(users), block):
        scores = users[begin : begin + block] @ items.T
        ptr = mask_ptr[begin : begin + block + 1]
        rows = torch.repeat_interleave(torch.arange(len(ptr) - 1, device=ptr.device), ptr.diff())
        scores[rows, mask_items[ptr[0] : ptr[-1]].long()] = -1e10
        top.append(scores.topk(min(K, len(items))).indices)
    return torch.cat(top)


def python_hits(top: torch.Tensor, target_ptr, target_items) -> list[list[bool]]:
    """Look every recommended item up in the user's target set, one at a time."""
    bounds, wanted = target_ptr.tolist(), target_items.tolist()
    sets = [set(wanted[begin:end]) for begin, end in itertools.pairwise(bounds)]
    return [[i in own for i in row] for own, row in zip(sets, top.tolist(), strict=True)]


def tensor_hits(top: torch.Tensor, target_ptr, target_items, num_items: int) -> torch.Tensor:
    """Look all recommended items up at once, by one key per (user, item)."""
    users = torch.arange(len(top), device=top.device)
    owner = torch.repeat_interleave(users, target_ptr.diff())
    return torch.isin(top + num_items * users[:, None], owner * num_items + target_items)


def setting(name: str, device: str) -> tuple:
    """Random vectors of one shape, (users, items), the lists to mask and to hit, and the coldest tenth of the items."""
    shape, generator = shapes[name], torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, WIDTH, generator=generator) for n in (shape.num_users, shape.num_items))
    mask = lists(*power_law_edges(shape), shape.num_users)
    targets = lists(*power_law_edges(shape._replace(num_edges=shape.num_edges // 6), seed=1), shape.num_users)
    cold = torch.bincount(mask[1], minlength=len(items)).argsort()[: len(items) // 10].sort().values.int()
    count = min(shape.num_users, MOST_PRODUCTS[torch.device(device).type] // shape.num_items)
    if count < shape.num_users:
        leave_out(f"rank {name}, all but {count} users", "a call for all users takes minutes")
    mask, targets = ([t.to(device) for t in first_rows(rows, count)] for rows in (mask, targets))
    return users[:count].to(device), items.to(device), mask, targets, cold.to(device)


def torch_ways(name: str, users, items, mask, targets) -> dict[str, Callable]:
    """Blocks of torch over all items, and the hits; those in Python where the tables are on the CPU."""
    small = {"torch blocks of 128": lambda: tensor_hits(torch_blocks(users, items, *mask, 128), *targets, len(items))}
    if 4096 * len(items) > BLOCK_SCORES:
        leave_out(f"rank {name}, torch blocks of 4096", f"a block of scores is {4096 * len(items) >> 28} GiB")
        return small
    ways = {"torch blocks of 4096": lambda: tensor_hits(torch_blocks(users, items, *mask, 4096), *targets, len(items))}
    if not users.is_cuda:
        ways["torch blocks of 4096, Python hits"] = lambda: python_hits(
            torch_blocks(users, items, *mask, 4096), *targets
        )
    return ways | small


def run(name: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Measure one shape: all items, and the coldest tenth of them alone."""
    precision, device = arguments.precision, arguments.device
    users, items, mask, targets, cold = setting(name, device)
    chosen, nothing = items[cold.long()], (torch.zeros_like(mask[0]), mask[1][:0])
    limit = gemm_flops(device=device, dtype=product_type(precision, WIDTH, device))
    every = torch_ways(name, users, items, mask, targets)
    some = {"torch blocks of 128, no masks or hits": lambda: torch_blocks(users, chosen, *nothing, 128)}
    passes = [
        (f"all items ({precision})", None, every, len(items)),
        (f"a tenth ({precision})", cold, some, len(cold)),
    ]
    for kind, candidates, others, ranked in passes:
        k = min(K, ranked)
        facts = {
            "least_bytes": 4 * WIDTH * (len(users) + ranked) + 4 * len(mask[1]) + 9 * k * len(users),
            "least_flops": 2 * WIDTH * len(users) * ranked,
            "repeat": arguments.repeat,
            "device": device,
        }
        label = f"{name} {len(users)}x{ranked} D={WIDTH} k={k}"
        ours = partial(rank, users, items, *mask, *targets, k, candidates, precision)
        yield add_flop_limit(measure("rank", label, kind, ours, others, **facts), limit)


def main() -> None:
    """Parse the arguments and print the cases of every shape."""
    parser = shape_parser(__doc__, SIZES, repeat=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    emit_shapes(parse(parser), run)


if __name__ == "__main__":
    main()
