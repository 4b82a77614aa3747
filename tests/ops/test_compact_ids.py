"""compact_ids: against torch.unique, word edges, shapes, messages, compiled graphs."""

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops._backend import use_backend
from mmfast.ops.compact_ids import compact_ids


@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 128, 997, 100_003])
@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3), (3, 2048), ()])
def test_equals_unique(num_rows, shape):
    ids = torch.randint(0, num_rows, shape, generator=torch.Generator().manual_seed(0))
    rows, index = compact_ids(ids, num_rows)
    want_rows, want_index = torch.unique(ids, return_inverse=True)
    assert torch.equal(rows, want_rows) and torch.equal(index, want_index)
    assert torch.equal(rows[index], ids)
    with use_backend("reference"):
        assert all(torch.equal(a, b) for a, b in zip(compact_ids(ids, num_rows), (rows, index), strict=True))


def test_ids_at_both_ends_of_words_and_strided_input():
    ids = torch.tensor([[191, 0], [63, 64], [127, 128], [0, 191]]).T
    rows, index = compact_ids(ids, 192)
    assert rows.tolist() == [0, 63, 64, 127, 128, 191]
    assert torch.equal(rows[index], ids) and index.is_contiguous()


def test_no_rows():
    rows, index = compact_ids(torch.empty(0, dtype=torch.int64), 0)
    assert rows.shape == index.shape == (0,)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("ids", "num_rows", "message"),
    [
        (torch.tensor([3, 10]), 10, "from 3 to 10; wanted 0 to 9"),
        (torch.tensor([-1, 2]), 10, "from -1 to 2; wanted 0 to 9"),
        (torch.tensor([1], dtype=torch.int32), 10, "ids is torch.int32; wanted int64"),
        (torch.tensor([1]), -1, "num_rows is -1; wanted 0 or more"),
        (torch.tensor([1]), 5.0, "num_rows is 5.0; wanted a whole number"),
        (torch.tensor([1]), 2**70, f"num_rows is {2**70}; wanted a number of 64 bits"),
        (torch.tensor([1], device="meta"), 2, "number of rows depends on the ids, which a meta tensor does not hold"),
    ],
)
def test_messages(backend, ids, num_rows, message):
    with use_backend(backend), pytest.raises(MmfastError, match=message):
        compact_ids(ids, num_rows)


def test_opcheck_and_one_compiled_graph():
    ids = torch.tensor([4, 1, 4, 2])
    torch.library.opcheck(torch.ops.mmfast.compact_ids.default, (ids, 7))
    compiled = torch.compile(lambda ids: torch.ops.mmfast.compact_ids(ids, 7), fullgraph=True, backend="aot_eager")
    assert [t.tolist() for t in compiled(ids)] == [[1, 2, 4], [2, 0, 2, 1]]
