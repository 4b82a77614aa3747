"""Time of PTMRec's in-batch knowledge transfer for two modalities, against eager PyTorch."""

from __future__ import annotations

from _losses import options, run, table

from mmfast.ops import transfer_kl


def main():
    """Measure micro-batches from the paper's 128 on: only the batch sets the size, so no shape of data is asked for."""
    chosen = options(__doc__)
    for batch in dict.fromkeys((128, 512, chosen.batch)):
        users, items = table(chosen, 2, batch, chosen.width)
        content = table(chosen, 2, batch, chosen.width, seed=1)
        # scores of three tables twice, and the products of both gradients of both modalities
        least = (2 * 3 + 2 * 2) * 2 * batch * batch * chosen.width

        def loss(users, content, items=items):
            return transfer_kl(users, items, content)

        run(chosen, "transfer_kl", f"2 x {batch}", loss, (users, content), least_flops=least)


if __name__ == "__main__":
    main()
