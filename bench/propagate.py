"""Time of one product, of whole forward passes and of the gradient, against torch's and scipy's sparse products."""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from _common import emit, measure, shapes, stream_bandwidth, user_item_csr

from mmfast.ops.compact_ids import compact_ids
from mmfast.ops.propagate import propagate, propagate_rows


def torch_matrices(csr, device):
    """The same operator as torch CSR with int32 indices and as coalesced COO, by name."""
    size = (csr.num_rows, csr.num_rows)
    values = csr.entries(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout a beta
        by_rows = torch.sparse_csr_tensor(csr.ptr.int(), csr.cols, values, size, device=device)
    coo = torch.sparse_coo_tensor(torch.stack([csr.rows(), csr.cols.long()]), values, size, device=device).coalesce()
    return {"torch CSR int32": by_rows, "torch COO": coo}


def forward_backward(product, x, rows=None):
    def run():
        x.grad = None
        out = product()
        out = out if rows is None else out[rows]
        out.backward(torch.ones_like(out))

    return run


def cases(name, device, limit, width, repeat, batch_size):
    """Yield the measured cases of one shape."""
    shape = shapes[name]
    csr = user_item_csr(shape, device)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(csr.num_rows, width, generator=generator).to(device).requires_grad_()
    matrices = torch_matrices(csr, device)
    table, index = csr.num_rows * width * 4, (csr.num_rows + 1) * 8 + csr.num_entries * 4
    facts = {"device": device, "limit": limit, "repeat": repeat}
    one = facts | {"least_bytes": 2 * table + index, "least_flops": 2 * csr.num_entries * width}
    two = one | {"least_bytes": 2 * one["least_bytes"], "least_flops": 2 * one["least_flops"]}

    fixed = x.detach()
    others = {other: (lambda m=m: m @ fixed) for other, m in matrices.items()} | scipy_product(csr, fixed)
    yield measure("propagate", name, "product", lambda: propagate(csr, csr, fixed, 1, "last"), others, **one)

    others = {other: forward_backward(lambda m=m: m @ x, x) for other, m in matrices.items()}
    ours = forward_backward(lambda: propagate(csr, csr, x, 1, "last"), x)
    yield measure("propagate", name, "forward+backward", ours, others, **two)

    edges = torch.randint(0, shape.num_edges, (batch_size,), generator=generator).to(device)
    negatives = torch.randint(shape.num_users, shape.num_nodes, (batch_size,), generator=generator).to(device)
    rows, _ = compact_ids(torch.cat([csr.rows()[edges], csr.cols[edges].long(), negatives]), csr.num_rows)
    layers = 3

    def by_hand(matrix):
        layer, total = x, x
        for _ in range(layers):
            layer = matrix @ layer
            total = total + layer
        return total / (layers + 1)

    others = {other: forward_backward(lambda m=m: by_hand(m), x, rows) for other, m in matrices.items()}
    others["our dense table"] = forward_backward(lambda: propagate(csr, csr, x, layers), x, rows)
    ours = forward_backward(lambda: propagate_rows(csr, csr, x, rows, layers)[0], x)
    all_layers = facts | {name: 2 * layers * one[name] for name in ("least_bytes", "least_flops")}
    yield measure("propagate", name, f"batch of {layers} layers", ours, others, **all_layers)


def scipy_product(csr, x):
    """scipy's product, where scipy is installed and the table is on the CPU."""
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        return {}
    if x.is_cuda:
        return {}
    values = csr.entries(torch.float32).numpy()
    matrix = csr_matrix((values, csr.cols.numpy(), csr.ptr.numpy().astype(np.int32)), shape=(csr.num_rows,) * 2)
    array = x.numpy()
    return {"scipy CSR": lambda: matrix @ array}


def main():
    """Measure the shapes named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=["baby", "elec"], help=f"of {', '.join(shapes)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    limit = stream_bandwidth(options.device)
    for name in options.shapes:
        for case in cases(name, options.device, limit, options.width, options.repeat, options.batch):
            emit(case, options.json)


if __name__ == "__main__":
    main()
