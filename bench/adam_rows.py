"""Time of one exact Adam step on a table of which a batch touched a few rows, against torch with a dense gradient."""

from __future__ import annotations

import argparse

import torch
from _common import emit, measure, shapes, stream_bandwidth

from mmfast.ops.adam_rows import adam_rows_


def case(name, num_rows, width, facts, num_touched):
    """Measure one table of num_rows x width with num_touched rows of gradient."""
    device = facts["device"]
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(num_rows, width, generator=generator).to(device)
    exp_avg, exp_avg_sq = torch.zeros_like(param), torch.zeros_like(param)
    rows = torch.randperm(num_rows, generator=generator)[:num_touched].sort()[0].to(device)
    grad = torch.randn(rows.numel(), width, generator=generator).to(device)
    step = 0

    def ours():
        nonlocal step
        step += 1
        adam_rows_(param, exp_avg, exp_avg_sq, rows, grad, lr=1e-3, step=step)

    def torch_adam(**form):
        table = torch.nn.Parameter(param.clone())
        optimizer = torch.optim.Adam([table], lr=1e-3, **form)

        def run():
            table.grad = torch.zeros_like(table).index_copy_(0, rows, grad)
            optimizer.step()

        return run

    others = {"torch fused": torch_adam(fused=True), "torch foreach": torch_adam(foreach=True)}
    least = 6 * param.nbytes + grad.nbytes + rows.nbytes
    return measure("adam_rows", name, "step", ours, others, **facts, least_bytes=least, least_flops=12 * param.numel())


def main():
    """Measure embedding tables of the named shapes and the trainable 4096-wide features of baby."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=["baby", "elec"], help=f"of {', '.join(shapes)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--touched", type=int, default=4096, help="rows with a gradient, at most")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    facts = {"device": options.device, "limit": stream_bandwidth(options.device), "repeat": options.repeat}
    for name in options.shapes:
        emit(case(f"{name} x 64", shapes[name].num_nodes, 64, facts, options.touched), options.json)
    emit(case("baby items x 4096", shapes["baby"].num_items, 4096, facts, options.touched), options.json)


if __name__ == "__main__":
    main()
