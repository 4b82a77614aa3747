"""sample_negatives beside a Python loop, NumPy and torch; sample_edges beside torch.multinomial; user rows and triples.

Run from the repository: `python bench/sample.py [--shapes baby elec] [--edges 10000000] [--device cuda] [--json]`. What
runs in Python and NumPy is measured on the CPU alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from _cli import SIZES, parse, shape_parser, stream_facts
from _common import Shape, emit, measure, power_law_edges, shapes

from mmfast.ops.sample_edges import sample_edges, sample_edges_reference
from mmfast.ops.sample_negatives import sample_negatives, sample_negatives_reference
from mmfast.ops.sample_users import sample_triples, sample_user_rows

BATCH = 2048
UNIVERSAL = 5000  # CKD's universal triples a step
DRAWS = 64  # batches drawn at once
KEPT = 0.2  # FREEDOM drops 80 % of the edges
MULTINOMIAL_LIMIT = 1 << 24  # torch.multinomial refuses more categories


def python_loop(users, allowed: list[int], positives: list[set[int]]) -> list[int]:
    """Draw one negative at a time, as most programs of the field do."""
    drawn = []
    for user in users:
        item = random.choice(allowed)
        while item in positives[user]:
            item = random.choice(allowed)
        drawn.append(item)
    return drawn


def torch_redraws(users, allowed, keys, num_items: int) -> torch.Tensor:
    """Draw all negatives at once, and those that are positives again until none is; keys: one per positive, sorted."""
    drawn = torch.empty_like(users)
    left = torch.arange(len(users), device=users.device)
    while len(left):
        drawn[left] = allowed[torch.randint(len(allowed), (len(left),), device=users.device)]
        wanted = users[left] * num_items + drawn[left]
        left = left[keys[torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)] == wanted]
    return drawn


def row_offsets(users: np.ndarray, shape: Shape) -> torch.Tensor:
    """Return where the rows of each user begin, int64 [U + 1]."""
    return torch.tensor(np.concatenate([[0], np.cumsum(np.bincount(users, minlength=shape.num_users))]))


def host_negatives(arguments: tuple, items: np.ndarray) -> dict[str, Callable]:
    """Return the ways to the negatives that run on the CPU alone."""
    batch, ptr, _, candidates, *_ = arguments
    bounds, allowed, members = ptr.tolist(), candidates.tolist(), batch.tolist()
    sets = {u: set(items[bounds[u] : bounds[u + 1]].tolist()) for u in set(members)}
    return {
        "Python loop": lambda: python_loop(members, allowed, sets),
        "NumPy": lambda: sample_negatives_reference(*arguments),
    }


def negatives(name: str, shape: Shape, edges, facts: dict) -> dict:
    """Measure the negatives of one batch."""
    (users, items), device = edges, facts["device"]
    batch = torch.tensor(np.random.default_rng(0).choice(users, BATCH), device=device)
    candidates, row_items = (torch.tensor(ids, dtype=torch.int32, device=device) for ids in (np.unique(items), items))
    keys, allowed = torch.tensor(users * shape.num_items + items, device=device), candidates.long()
    arguments = (batch, row_offsets(users, shape).to(device), row_items, candidates, 1, 0)
    others = {"torch, drawn again": lambda: torch_redraws(batch, allowed, keys, shape.num_items)}
    if not batch.is_cuda:
        others |= host_negatives(arguments, items)
    facts = {"least_bytes": BATCH * (8 + 16 + 4 + 8), **facts}
    label = f"{name} batch {BATCH}"
    return measure("sample_negatives", label, "forward", lambda: sample_negatives(*arguments), others, **facts)


def kept_edges(name: str, weights: torch.Tensor, facts: dict) -> dict:
    """Measure one epoch's draw of weighted edges."""
    kept = int(KEPT * len(weights))
    others = {} if weights.is_cuda else {"NumPy": lambda: sample_edges_reference(weights, kept, 1)}
    if len(weights) < MULTINOMIAL_LIMIT:
        others["torch.multinomial"] = lambda: torch.multinomial(weights, kept)
    facts = {"least_bytes": 8 * len(weights) + 8 * kept, **facts}
    label = f"{name} {kept} of {len(weights)}"
    return measure("sample_edges", label, "forward", lambda: sample_edges(weights, kept, 1), others, **facts)


def degree_weights(edges) -> torch.Tensor:
    """Return 1 / sqrt(user degree x item degree) of every edge, float64 [E]."""
    users, items = edges
    return torch.tensor((np.bincount(users)[users] * np.bincount(items)[items]) ** -0.5)


def user_rows(name: str, shape: Shape, edges, facts: dict) -> dict:
    """Measure user-balanced batches: distinct users, one of their rows each."""
    ptr = row_offsets(edges[0], shape)
    active = ptr.diff().nonzero()[:, 0]
    bounds, users, generator = ptr.numpy(), active.numpy(), np.random.default_rng(0)
    ptr, active, batch = ptr.to(facts["device"]), active.to(facts["device"]), min(BATCH, len(users))

    def with_torch() -> None:
        for _ in range(DRAWS):
            drawn = active[torch.randperm(len(active), device=active.device)[:batch]]
            begin, end = ptr[drawn], ptr[drawn + 1]
            _ = begin + (torch.rand(batch, dtype=torch.float64, device=ptr.device) * (end - begin)).long()

    def with_numpy() -> None:
        for _ in range(DRAWS):
            drawn = generator.choice(users, batch, replace=False)
            generator.integers(bounds[drawn], bounds[drawn + 1])

    facts = {"least_bytes": DRAWS * batch * (8 + 16 + 8), **facts}
    label = f"{name} {DRAWS} batches of {batch}"
    arguments = (ptr, active, batch, DRAWS, 1)
    others = {"torch.randperm": with_torch} | ({} if ptr.is_cuda else {"NumPy": with_numpy})
    return measure("sample_user_rows", label, "forward", lambda: sample_user_rows(*arguments), others, **facts)


def triples(name: str, shape: Shape, facts: dict) -> dict:
    """Measure universal triples: distinct users, two items of the catalogue each."""
    users, generator = torch.arange(shape.num_users, device=facts["device"]), np.random.default_rng(0)
    batch = min(UNIVERSAL, shape.num_users)

    def with_torch() -> None:
        for _ in range(DRAWS):
            torch.randperm(shape.num_users, device=users.device)[:batch]
            torch.randint(shape.num_items, (2, batch), device=users.device)

    def with_numpy() -> None:
        for _ in range(DRAWS):
            generator.choice(shape.num_users, batch, replace=False)
            generator.integers(shape.num_items, size=(2, batch))

    facts = {"least_bytes": DRAWS * batch * 24, **facts}
    label = f"{name} {DRAWS} batches of {batch}"
    arguments = (users, shape.num_items, batch, DRAWS, 1)
    others = {"torch.randperm": with_torch} | ({} if users.is_cuda else {"NumPy": with_numpy})
    return measure("sample_triples", label, "forward", lambda: sample_triples(*arguments), others, **facts)


def main() -> None:
    """Parse the arguments and print four cases per shape."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--edges", type=int, help="measure sample_edges alone, on so many edges")
    arguments = parse(parser)
    facts = stream_facts(arguments)
    if arguments.edges:
        weights = torch.rand(arguments.edges, dtype=torch.float64, device=arguments.device) + 0.01
        emit(kept_edges("random weights", weights, facts), arguments.json)
        return
    for name in arguments.shapes:
        edges = power_law_edges(shapes[name])
        emit(negatives(name, shapes[name], edges, facts), arguments.json)
        emit(kept_edges(name, degree_weights(edges).to(arguments.device), facts), arguments.json)
        emit(user_rows(name, shapes[name], edges, facts), arguments.json)
        emit(triples(name, shapes[name], facts), arguments.json)


if __name__ == "__main__":
    main()
