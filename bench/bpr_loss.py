"""Time of gather, loss and backward of one batch, against eager PyTorch."""

from __future__ import annotations

import torch
from _cli import SIZES, parse, shape_parser, stream_facts
from _common import emit, measure, shapes

from mmfast.ops.bpr_loss import bpr_loss, bpr_loss_reference


def case(name, num_users, num_items, facts, width, batch_size):
    """Measure one size of the two tables."""
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, width, generator=generator) for n in (num_users, num_items))
    users, items = (t.to(facts["device"]).requires_grad_() for t in (users, items))
    sizes = (num_users, num_items, num_items)
    index = [torch.randint(0, n, (batch_size,), generator=generator).to(facts["device"]) for n in sizes]

    def step(loss):
        def run():
            users.grad = items.grad = None
            loss(users, items, *index).backward()

        return run

    # rows read in each direction, both gradients written and the batch's rows of them added to
    least = 4 * width * (6 * batch_size + 3 * 2 * batch_size + num_users + num_items) + 3 * 2 * 8 * batch_size
    flops = 2 * width * batch_size * 2 + 2 * width * batch_size * 4
    others = {"eager PyTorch": step(bpr_loss_reference)}
    return measure(
        "bpr_loss", name, "forward+backward", step(bpr_loss), others, **facts, least_bytes=least, least_flops=flops
    )


def main():
    """Measure compact tables (the rows of one batch) and the whole tables of the named shapes."""
    parser = shape_parser(__doc__, SIZES, repeat=31)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    options = parse(parser)
    facts = stream_facts(options)
    emit(case("compact", options.batch, 2 * options.batch, facts, options.width, options.batch), options.json)
    for name in options.shapes:
        shape = shapes[name]
        emit(case(name, shape.num_users, shape.num_items, facts, options.width, options.batch), options.json)


if __name__ == "__main__":
    main()
