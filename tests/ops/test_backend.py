"""What a native kernel refuses is an MmfastError with the kernel's own sentence; other errors keep their type."""

from __future__ import annotations

import pytest
import torch

from mmfast.errors import MmfastError
from mmfast.ops import bpr_loss, compact_ids, gathered_norm
from mmfast.ops._backend import call_native

TABLE = torch.ones(4, 3)
FAR = torch.tensor([0, 9])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compact_ids(FAR, 4), "compact_ids: ids holds ids from 0 to 9; wanted 0 to 3"),
        (lambda: gathered_norm(TABLE, FAR), "gathered_norm: index holds ids from 0 to 9; wanted 0 to 3"),
        (
            lambda: bpr_loss(TABLE, TABLE, FAR, FAR, FAR),
            "bpr_loss: user_index holds ids from 0 to 9; wanted 0 to 3",
        ),
    ],
)
def test_a_refused_argument_is_one_sentence(call, message):
    with pytest.raises(MmfastError) as failure:
        call()
    assert str(failure.value) == message
    assert failure.value.__suppress_context__


def test_errors_that_are_not_the_ops_own_keep_their_type():
    with pytest.raises(RuntimeError, match="Expected a value of type 'int'"):
        call_native("compact_ids", FAR, "four")


def test_a_compiled_graph_refuses_too():
    compiled = torch.compile(lambda index: gathered_norm(TABLE, index), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(FAR % 4), gathered_norm(TABLE, FAR % 4))
    with pytest.raises((MmfastError, RuntimeError), match="index holds ids from 0 to 9; wanted 0 to 3"):
        compiled(FAR)
