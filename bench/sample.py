"""sample_negatives beside a Python loop and NumPy; sample_edges beside torch.multinomial; user rows and triples.

Run from the repository: `python bench/sample.py [--shapes baby elec] [--edges 10000000] [--json]`.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from _cli import SIZES, parse, shape_parser
from _common import Shape, emit, measure, power_law_edges, shapes, stream_bandwidth

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


def negatives(name: str, shape: Shape, edges, limit: float, repeat: int) -> dict:
    """Measure the negatives of one batch."""
    users, items = edges
    ptr = torch.tensor(np.concatenate([[0], np.cumsum(np.bincount(users, minlength=shape.num_users))]))
    row_items = torch.tensor(items, dtype=torch.int32)
    candidates = torch.tensor(np.unique(items), dtype=torch.int32)
    batch = torch.tensor(np.random.default_rng(0).choice(users, BATCH))
    bounds = ptr.tolist()
    sets = {u: set(items[bounds[u] : bounds[u + 1]].tolist()) for u in batch.unique().tolist()}
    allowed, members = candidates.tolist(), batch.tolist()
    arguments = (batch, ptr, row_items, candidates, 1, 0)
    others = {
        "Python loop": lambda: python_loop(members, allowed, sets),
        "NumPy": lambda: sample_negatives_reference(*arguments),
    }
    facts = {"least_bytes": BATCH * (8 + 16 + 4 + 8), "limit": limit, "repeat": repeat}
    label = f"{name} batch {BATCH}"
    return measure("sample_negatives", label, "forward", lambda: sample_negatives(*arguments), others, **facts)


def kept_edges(name: str, weights: torch.Tensor, limit: float, repeat: int) -> dict:
    """Measure one epoch's draw of weighted edges."""
    kept = int(KEPT * len(weights))
    others = {"NumPy": lambda: sample_edges_reference(weights, kept, 1)}
    if len(weights) < MULTINOMIAL_LIMIT:
        others["torch.multinomial"] = lambda: torch.multinomial(weights, kept)
    facts = {"least_bytes": 8 * len(weights) + 8 * kept, "limit": limit, "repeat": repeat}
    label = f"{name} {kept} of {len(weights)}"
    return measure("sample_edges", label, "forward", lambda: sample_edges(weights, kept, 1), others, **facts)


def degree_weights(edges) -> torch.Tensor:
    """Return 1 / sqrt(user degree x item degree) of every edge, float64 [E]."""
    users, items = edges
    return torch.tensor((np.bincount(users)[users] * np.bincount(items)[items]) ** -0.5)


def user_rows(name: str, shape: Shape, edges, limit: float, repeat: int) -> dict:
    """Measure user-balanced batches: distinct users, one of their rows each."""
    ptr = torch.tensor(np.concatenate([[0], np.cumsum(np.bincount(edges[0], minlength=shape.num_users))]))
    active = ptr.diff().nonzero()[:, 0]
    bounds, users, generator = ptr.numpy(), active.numpy(), np.random.default_rng(0)

    batch = min(BATCH, len(users))

    def with_numpy() -> None:
        for _ in range(DRAWS):
            drawn = generator.choice(users, batch, replace=False)
            generator.integers(bounds[drawn], bounds[drawn + 1])

    facts = {"least_bytes": DRAWS * batch * (8 + 16 + 8), "limit": limit, "repeat": repeat}
    label = f"{name} {DRAWS} batches of {batch}"
    arguments = (ptr, active, batch, DRAWS, 1)
    others = {"NumPy": with_numpy}
    return measure("sample_user_rows", label, "forward", lambda: sample_user_rows(*arguments), others, **facts)


def triples(name: str, shape: Shape, limit: float, repeat: int) -> dict:
    """Measure universal triples: distinct users, two items of the catalogue each."""
    users, generator = torch.arange(shape.num_users), np.random.default_rng(0)
    batch = min(UNIVERSAL, shape.num_users)

    def with_numpy() -> None:
        for _ in range(DRAWS):
            generator.choice(shape.num_users, batch, replace=False)
            generator.integers(shape.num_items, size=(2, batch))

    facts = {"least_bytes": DRAWS * batch * 24, "limit": limit, "repeat": repeat}
    label = f"{name} {DRAWS} batches of {batch}"
    arguments = (users, shape.num_items, batch, DRAWS, 1)
    others = {"NumPy": with_numpy}
    return measure("sample_triples", label, "forward", lambda: sample_triples(*arguments), others, **facts)


def main() -> None:
    """Parse the arguments and print four cases per shape."""
    parser = shape_parser(__doc__, SIZES)
    parser.add_argument("--edges", type=int, help="measure sample_edges alone, on so many edges")
    arguments = parse(parser)
    limit = stream_bandwidth()
    if arguments.edges:
        weights = torch.rand(arguments.edges, dtype=torch.float64) + 0.01
        emit(kept_edges("random weights", weights, limit, arguments.repeat), arguments.json)
        return
    for name in arguments.shapes:
        edges = power_law_edges(shapes[name])
        emit(negatives(name, shapes[name], edges, limit, arguments.repeat), arguments.json)
        emit(kept_edges(name, degree_weights(edges), limit, arguments.repeat), arguments.json)
        emit(user_rows(name, shapes[name], edges, limit, arguments.repeat), arguments.json)
        emit(triples(name, shapes[name], limit, arguments.repeat), arguments.json)


if __name__ == "__main__":
    main()
