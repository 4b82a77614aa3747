"""hypergraph: LGMRec's recurrence against loops, its gradient, messages."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import hypergraph


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_equals_the_recurrence_in_loops():
    user_h, item_h, z = random(5, 3).softmax(1), random(4, 3, seed=1).softmax(1), random(4, 2, seed=2)
    users, items = hypergraph(user_h, item_h, z, num_layers=2)
    for _ in range(2):
        hyperedges = [sum(item_h[i, a] * z[i] for i in range(4)) for a in range(3)]
        z = torch.stack([sum(item_h[i, a] * hyperedges[a] for a in range(3)) for i in range(4)])
    torch.testing.assert_close(items, z)
    for u in range(5):
        torch.testing.assert_close(users[u], sum(user_h[u, a] * hyperedges[a] for a in range(3)))


def test_gradcheck_and_one_compiled_graph():
    x = [t.requires_grad_() for t in (random(3, 2), random(4, 2, seed=1), random(4, 5, seed=2))]
    assert torch.autograd.gradcheck(lambda *t: hypergraph(*t, num_layers=2), x)
    compiled = torch.compile(hypergraph, fullgraph=True, backend="aot_eager")
    for ours, want in zip(compiled(*x, 2), hypergraph(*x, 2), strict=True):
        torch.testing.assert_close(ours, want)


@pytest.mark.parametrize(
    ("message", "shapes", "num_layers"),
    [
        (r"user_incidence is \[3, 2\], item_incidence \[4, 3\]", [(3, 2), (4, 3), (4, 5)], 1),
        (
            r"item_incidence \[4, 2\], items \[5, 5\]; wanted \[U, A\], \[I, A\] and \[I, D\]",
            [(3, 2), (4, 2), (5, 5)],
            1,
        ),
        (r"items \[4\]", [(3, 2), (4, 2), (4,)], 1),
        ("num_layers is 0; choose 1 or more", [(3, 2), (4, 2), (4, 5)], 0),
    ],
)
def test_messages(message, shapes, num_layers):
    with pytest.raises(MmfastError, match=message):
        hypergraph(*(torch.ones(s) for s in shapes), num_layers)
