"""Time of a micro-batch of PTMRec's stage 2, in its parts, against CLIP with prompts as it is written down.

python bench/ptmrec.py --micro-batch 4 --threads 1 --clock cpu --repeat 1      a glance on a busy machine
python bench/ptmrec.py --device cuda --precision bfloat16                      the paper's micro-batch on a GPU
python bench/ptmrec.py --tunings      prompts, LoRA and adapters: trainable parameters, time per epoch, memory (Table 2)

The plain form encodes the items of every triple, at 77 text columns, with prompts among the tokens of each item.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from _common import peak_bytes, seconds_of, shapes
from _origin import json_line
from _ptmrec import add_arguments, plain_rows, stage_2

from mmfast.data.sampler import Batch
from mmfast.embeddings import row_tables
from mmfast.frameworks.ptmrec.framework import PTMRec
from mmfast.optim import Adam

METHODS = ("prompt", "lora", "adapter")


def main() -> None:
    """Measure one micro-batch, or the three ways of tuning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument(
        "--tunings", nargs="*", choices=METHODS, help="compare these instead; without a name, all three"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for line in tunings(chosen) if chosen.tunings is not None else [micro_batch(chosen)]:
        print(json_line(line) if chosen.json else told(line), flush=True)


def told(line: dict) -> str:
    """Return a line for people."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items())


def case(chosen: argparse.Namespace) -> dict:
    """Return what was measured on."""
    named = ("clip", "model", "shape", "micro_batch", "tokens", "precision", "device", "threads", "clock")
    return {"bench": "ptmrec", **{name: getattr(chosen, name) for name in named}}


def median(fn: Callable[[], object], chosen: argparse.Namespace) -> float:
    """Return the median seconds of some calls after one that is not counted."""
    fn()
    return statistics.median(seconds_of(fn, chosen.clock) for _ in range(chosen.repeat))


def micro_batch(chosen: argparse.Namespace) -> dict:
    """Return the seconds of the parts of a micro-batch, of all of it, and the ratios to the plain form."""
    made, batch = stage_2(chosen)
    optimizer = Adam([p for p in made.parameters() if p.requires_grad], tables=row_tables(made))
    items = batch.unique_items[0].cpu().numpy()

    def encode(modality: str) -> Callable[[], object]:
        return lambda: made.encoder.rows(modality, made.tuning, items).sum().backward()

    def recommender() -> None:
        sum(made.model.loss(batch).values()).backward()

    def ours() -> None:
        optimizer.zero_grad(set_to_none=True)
        made.backward(batch, made.loss)

    parts = {f"encode_{modality}": median(encode(modality), chosen) for modality in ("image", "text")}
    parts["recommender"] = median(recommender, chosen)
    parts["kl"] = median(lambda: made.transfer(batch).backward(), chosen)
    whole, bytes_of = median(ours, chosen), peak_bytes(ours, chosen.device)
    parts["optimizer"] = median(optimizer.step, chosen)
    other = plain(made, batch, optimizer)
    other_s, other_bytes = median(other, chosen), peak_bytes(other, chosen.device)
    named = {f"{name}_s": seconds for name, seconds in parts.items()}
    ratios = {"plain": other_s / whole, "plain_memory": other_bytes / max(1, bytes_of)}
    facts = {"items": len(items), "images_per_s": len(items) / parts["encode_image"]}
    return {**case(chosen), "median_s": whole, **named, "peak_bytes": bytes_of, **facts, "ratios": ratios}


def plain(made: PTMRec, batch: Batch, optimizer: Adam) -> Callable[[], None]:
    """Return the same micro-batch with every triple's items encoded as written down."""
    named = torch.cat([batch.pos_items, batch.neg_items])
    rows, place = batch.unique_items[0], torch.cat(batch.unique_items[1:])

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        for modality in made.config.modalities:
            encoded = plain_rows(made, modality, named.cpu().numpy())
            # Of an item that is named twice, the mean of its equal rows: each of them takes part in the gradient.
            count = torch.bincount(place, minlength=len(rows))[:, None]
            one = torch.zeros(len(rows), encoded.shape[1], device=encoded.device).index_add(0, place, encoded) / count
            made.source(modality).set_live(rows, one)
        sum(made.loss(batch).values()).backward()
        for modality in made.config.modalities:
            made.source(modality).set_live(None, None)

    return run


def tunings(chosen: argparse.Namespace) -> list[dict]:
    """Return Table 2 of one data shape: per way of tuning parameters, seconds per epoch and memory.

    An epoch is reckoned from one measured micro-batch and from the rate of encoding without a gradient.
    """
    lines = []
    for method in chosen.tunings or METHODS:
        made, batch = stage_2(chosen, method=method)
        optimizer = Adam([p for p in made.parameters() if p.requires_grad], tables=row_tables(made))
        items = batch.unique_items[0].cpu().numpy()

        def step(made: PTMRec = made, batch: Batch = batch, optimizer: Adam = optimizer) -> None:
            made.step(batch, optimizer)

        def refresh(made: PTMRec = made, items=items) -> None:
            with torch.no_grad():
                for modality in made.config.modalities:
                    made.encoder.rows(modality, made.tuning, items)

        steps = -(-shapes[chosen.shape].num_edges // chosen.micro_batch)
        per_step, per_item = median(step, chosen), median(refresh, chosen) / len(items)
        trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
        inside = sum(p.numel() for p in made.tuning.parameters())
        epoch = steps * per_step + made.model.num_items * per_item
        lines.append(
            {**case(chosen), "method": method, "trained_in_clip": inside, "trained": trained, "epoch_s": epoch,
             "micro_batch_s": per_step, "refresh_s": made.model.num_items * per_item,
             "peak_bytes": peak_bytes(step, chosen.device)}
        )  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
