"""What every op shares: no op without a case, one device for all its tensors, eagerly, compiled and called directly."""

from __future__ import annotations

import re

import pytest
import torch

from mmfast import ops
from mmfast.errors import MmfastError
from mmfast.ops._backend import call_native, check_devices
from tests.ops.cases import CASES
from tests.ops.graphs import operator

OTHERS = "move both to one device"
UNREAD = {("edge_gather", 0), ("edge_gather", 3), ("edge_sum", 0), ("edge_sum", 3)}  # of Edges: ptr and rows_t
MANY = [(name, place) for name, case in CASES.items() for place in range(len(case.tensors)) if len(case.tensors) > 1]


def test_every_op_has_a_case():
    names = {name for name in ops.__all__ if name.endswith("_") or callable(getattr(ops, name))}
    plain = {"CSR", "Edges", "backend", "use_backend", "batch_count", "batch_mean", "batch_rows"}
    of_others = {"frobenius_reg", "half_square_reg", "mean_square_reg", "moment_alignment", "hypergraph", "hyperedges"}
    assert names - plain - of_others <= set(CASES)


def test_the_documentation_names_the_ops_that_no_graph_captures():
    _, exceptions = ops.__doc__.split("Not so")
    named = {name for name in ops.__all__ if re.search(rf"\b{name}\b", exceptions)}
    assert named == {name for name, case in CASES.items() if case.host}


@pytest.mark.parametrize("name", list(CASES))
def test_the_case_runs(name):
    step, tensors, _ = CASES[name]
    results = step(*(t.clone() for t in tensors))
    assert results and all(t.numel() for t in results)


@pytest.mark.parametrize(("name", "place"), MANY)
def test_a_tensor_on_another_device_is_refused_or_not_read(name, place):
    step, tensors, _ = CASES[name]
    here = [t.to("meta") if n == place else t.clone() for n, t in enumerate(tensors)]
    if (name, place) not in UNREAD:
        with pytest.raises(MmfastError, match=rf": .+ is on \w+, .+ on \w+; {OTHERS}$"):
            step(*here)
    else:
        want = step(*(t.clone() for t in tensors))
        assert all(torch.equal(a, b) for a, b in zip(step(*here), want, strict=True))


def test_a_list_with_two_devices_is_refused():
    x = torch.ones(3, 2)
    with pytest.raises(MmfastError, match=rf"transfer_kl: content\[1\] is on meta, users on cpu; {OTHERS}"):
        ops.transfer_kl(x, x, [x, x.to("meta")])
    values, (csr, transpose) = torch.ones(30, requires_grad=True), operator(11, 30, torch.float32)
    learned = csr._replace(values=values), transpose._replace(values=values.detach())
    with pytest.raises(MmfastError, match=rf"propagate_rows: rows is on meta, ptr on cpu; {OTHERS}"):
        ops.propagate_rows(*learned, torch.ones(11, 2), torch.arange(3, device="meta"), 2)


def test_nothing_is_written_where_devices_differ():
    step, tensors, _ = CASES["adam_lazy_"]
    with pytest.raises(MmfastError) as refused:
        step(*tensors[:5], tensors[5].to("meta"))
    assert str(refused.value) == "adam_lazy_: grad is on meta, param on cpu; move both to one device"
    state = [t.clone() for t in tensors[:4]]
    with pytest.raises(MmfastError, match=OTHERS):
        torch.ops.mmfast.adam_lazy_(*state, tensors[4], tensors[5].to("meta"), 0.01, 0.9, 0.999, 1e-8, torch.tensor(9))
    assert all(torch.equal(a, b) for a, b in zip(state, tensors[:4], strict=True))


def test_a_compiled_graph_refuses_two_devices():
    table, index = torch.ones(4, 3), torch.tensor([0, 1])
    compiled = torch.compile(ops.gathered_norm, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(table, index), ops.gathered_norm(table, index))
    with pytest.raises(Exception, match=re.escape(f"gathered_norm: index is on meta, table on cpu; {OTHERS}")):
        compiled(table, index.to("meta"))


def test_fake_tensors_have_the_device_they_claim():
    with torch._subclasses.FakeTensorMode():
        table = torch.empty(4, 3, device="cuda")
        assert call_native("gathered_norm", table, torch.empty(2, dtype=torch.int64, device="cuda"))[0].is_cuda
        with pytest.raises(MmfastError, match=f"index is on cpu, table on cuda:0; {OTHERS}"):
            call_native("gathered_norm", table, torch.empty(2, dtype=torch.int64))


def test_numbers_and_absent_tensors_have_no_device():
    check_devices("rank", (3, None, "mean", torch.ones(2), 0.5))
