"""Say what training will need on devices that are not there: memory of a rank, bytes exchanged, seconds of a step."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmfast.config import RunConfig, build_config
from mmfast.errors import MmfastError

if TYPE_CHECKING:
    from mmfast.planning.estimate import Estimate, Whole
    from mmfast.planning.probe import Size

EXAMPLES = """examples:
  mmfast plan configs/elec_freedom.yaml --gpus 8 --memory 80GB --bandwidth 200GB --speed 40
  mmfast plan model=lightgcn data=elec --gpus 2 --threads 1
  mmfast plan model=vbpr data=mine --users 2e6 --items 5e5 --interactions 2e7 --features image=512

Runs of the config on made-up data of parts of the size are measured here (--probe: users and items of the largest), and
drawn out along a line. --speed says how many times as fast a rank is as this machine (by memory bandwidth: most of a
step is bound by it). Nothing has to be there but the size, which is that of the data set, or of a built-in name.
"""
PUBLISHED_WIDTHS = {"image": 4096, "text": 384}
TRAIN_SHARE = 0.74  # of Baby's, Sports' and Clothing's rows, by the per-user rule
PARTS = (0.5, 1.0)
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast plan`."""
    parser.add_argument("config", nargs="+", metavar="CONFIG.yaml | key=value", help="as for mmfast train")
    parser.add_argument("--gpus", "--ranks", dest="ranks", type=int, default=1, help="processes, one a GPU (default 1)")
    parser.add_argument("--memory", type=amount, metavar="80GB", help="of a rank: say which plans fit")
    parser.add_argument("--bandwidth", type=amount, default=1e10, metavar="10GB", help="bytes/s a rank receives")
    parser.add_argument("--latency", type=float, default=5e-5, help="seconds of an exchange (default 5e-5)")
    parser.add_argument("--speed", type=float, default=1.0, help="a rank's speed over this machine's (default 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of a probe (default: those of the config)")
    parser.add_argument("--probe", type=int, default=60_000, help="users and items of the largest probe")
    parser.add_argument("--users", type=amount, help="size of the data, where no data set has it")
    parser.add_argument("--items", type=amount)
    parser.add_argument("--interactions", type=amount, help="to train on")
    parser.add_argument("--features", nargs="+", default=(), metavar="MODALITY=WIDTH")
    parser.add_argument("--torchrec", action="store_true", help="also ask TorchRec's planner about the tables")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Probe, estimate and print."""
    from mmfast.commands.train import file_and_settings
    from mmfast.distributed.torchrec_planner import check_torchrec, planned
    from mmfast.planning.estimate import Ranks, draw_out, estimates
    from mmfast.planning.probe import probe
    from mmfast.registry import MODELS
    from mmfast.settings import read_settings

    for name in ("ranks", "bandwidth", "speed", "probe"):
        if getattr(args, name) <= 0:
            raise MmfastError(f"plan: --{name} is {getattr(args, name)}; wanted more than 0")
    if args.torchrec:  # first: probes take longer than to find no package
        check_torchrec()
    config = build_config(read_settings(*file_and_settings(args.config)))
    size = size_of(config, args)
    share = min(1.0, args.probe / (size.users + size.items))
    threads = args.threads or config.threads or default_threads()
    whole = draw_out([probe(config, size.part(share * part), threads) for part in PARTS], size)
    ranks = Ranks(args.ranks, args.bandwidth, args.latency, args.speed)
    found = estimates(whole, ranks, MODELS.get(config.model.name).over_ranks == "rows")
    choices = {}
    if args.torchrec:
        choices = planned(whole.probe.tables, args.ranks, config.train.batch_size, args.memory, args.bandwidth)
    if args.json:
        plans = [asdict(one) | {"peak_bytes": one.peak_bytes, "step_s": one.step_s} for one in found]
        print(json.dumps({"size": asdict(size), "one_process": asdict(whole.probe), "plans": plans} | choices))
    else:
        print(
            text_of(config, whole, found, args, share), *(f"\nTorchRec: {t}: {c}" for t, c in choices.items()), sep=""
        )
    return 0


def size_of(config: RunConfig, args: argparse.Namespace) -> Size:
    """Return the size that was given, or that of the data set; a built-in one need not be there."""
    from mmfast.planning.probe import Size

    known = sizes_of_data(config) if None in (args.users, args.items, args.interactions) else {}
    widths = dict(known.get("features", PUBLISHED_WIDTHS))
    for text in args.features:
        name, _, width = text.partition("=")
        if not width.isdigit() or not int(width):
            raise MmfastError(f"plan: --features got '{text}'; wanted for example image=4096")
        widths[name] = int(width)
    numbers = {key: getattr(args, key) or known[key] for key in ("users", "items", "interactions")}
    return Size(*(int(numbers[key]) for key in ("users", "items", "interactions")), widths)


def sizes_of_data(config: RunConfig) -> dict[str, Any]:
    """Return the sizes of the config's data set, as published where it is built in and not there."""
    from mmfast.data.locate import card_of
    from mmfast.run import dataset_of

    try:
        data = dataset_of(config)
    except MmfastError as error:
        card = card_of(config.data.name)[1]
        if card is None or card.rows is None:
            raise MmfastError(f"{error}. Or give the sizes: --users --items --interactions") from None
        return {"users": card.users, "items": card.items, "interactions": round(TRAIN_SHARE * card.rows)}
    features = {name: table.shape[1] for name, table in data.features.items()}
    sizes = {"users": data.num_users, "items": data.num_items, "interactions": len(data.train)}
    return sizes | {"features": features}


def default_threads() -> int:
    """Return the threads that torch takes."""
    import torch

    return torch.get_num_threads()


def text_of(config: RunConfig, whole: Whole, found: list[Estimate], args: argparse.Namespace, share: float) -> str:
    """Return the table for a reader."""
    from mmfast.commands.show import table

    head = ["plan", "start GiB", "training GiB", "received a step, MiB", "compute s", "network s"]
    rows = [head if args.memory is None else [*head, "fits"]]
    for one in found:
        sent = ", ".join(f"{kind} {size / 2**20:.1f}" for kind, size in one.exchanged.items()) or "-"
        row = [one.plan, gib(one.start_bytes), gib(one.train_bytes), sent]
        row += [f"{one.compute_s:.4f}", f"{one.network_s:.4f}"]
        rows.append(row if args.memory is None else [*row, "yes" if one.peak_bytes <= args.memory else "no"])
    size, parts = whole.probe.size, " and ".join(f"{share * part:.1%}" for part in PARTS)
    features = ", ".join(f"{name} {width}" for name, width in size.features.items()) or "no features"
    return "\n".join(
        [
            f"{config.model.name}: {size.users:,} users, {size.items:,} items, {size.interactions:,} interactions, "
            f"{features}",
            f"{args.ranks} rank{'s' * (args.ranks > 1)}, from runs of {parts} of that here; "
            f"{-(-size.interactions // config.train.batch_size):,} steps an epoch",
            table(rows),
            f"one process evaluates in about {whole.probe.evaluation_s / args.speed:.1f} s",
        ]
    )


def gib(size: int) -> str:
    """Return bytes as GiB."""
    return f"{size / 2**30:.2f}"


def amount(text: str) -> float:
    """Return the number of "80GB", "16GiB", "2e6" or "200M".

    >>> amount("80GB"), amount("16GiB"), amount("2e6")
    (80000000000.0, 17179869184.0, 2000000.0)
    """
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?(?:/s)?", text.strip(), re.IGNORECASE)
    try:
        return float(match[1]) * UNITS[match[2].upper()]
    except (TypeError, KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"got '{text}'; wanted a number such as 80GB, 16GiB or 2e6") from None
