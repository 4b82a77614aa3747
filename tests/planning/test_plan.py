"""Plans: probes are drawn out along a line, traffic is what ranks exchange, the command needs no data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch.distributed as dist

from mmfast.cli import main
from mmfast.commands.plan import amount
from mmfast.config import build_config
from mmfast.data.synthetic import power_law_dataset
from mmfast.errors import MmfastError
from mmfast.planning.estimate import Ranks, draw_out, estimates
from mmfast.planning.probe import Probe, Size, probe
from mmfast.training import Training
from tests.distributed.jobs import on_ranks
from tests.frameworks.common import block_config

SIZE = Size(800, 400, 8_000, {"text": 16})


def made_up(share: float) -> Probe:
    """What a process would measure whose every figure is a constant and a multiple of the size."""
    size = SIZE.part(share)
    traffic = {"rows": 700, "layers": 0, "results": 0, "gradients": 100, "row gradients": 0, "table gradients": 0}
    grown = {"layers": int(4_000 * share), "results": int(2_000 * share), "table gradients": int(1_000 * share)}
    tables = ((size.users + size.items, 64),)
    numbers = int(1_000_000 + 200_000 * share), int(2_000_000 + 1_000_000 * share)
    return Probe(size, *numbers, tables, int(80_000 * share), traffic | grown, 0.25 + 0.5 * share, 3.0 * share**2)


def test_lines_are_read_at_the_whole_size():
    whole = draw_out([made_up(0.25), made_up(0.5)], SIZE)
    want = made_up(1.0)
    assert whole.probe == replace(want, step_s=whole.probe.step_s, evaluation_s=whole.probe.evaluation_s)
    assert whole.probe.step_s == pytest.approx(0.75) and whole.fixed_step_s == pytest.approx(0.25)
    assert whole.probe.evaluation_s == pytest.approx(3.0)
    with pytest.raises(MmfastError, match="the probes are of one size"):
        draw_out([made_up(0.5), made_up(0.5)], SIZE)


def test_one_process_exchanges_nothing():
    whole = draw_out([made_up(0.5), made_up(1.0)], SIZE)
    (only,) = estimates(whole, Ranks(1, 1e9, 1e-3, speed=2.0), True)
    assert (only.plan, only.exchanged, only.network_s) == ("one process", {}, 0.0)
    assert only.step_s == pytest.approx(0.375) and only.peak_bytes == made_up(1.0).train_bytes


def test_ranks_divide_what_their_plan_divides():
    whole = draw_out([made_up(0.5), made_up(1.0)], SIZE)
    found = {one.plan: one for one in estimates(whole, Ranks(4, 1e6, 0.0), True)}
    tables, three = 1_200 * 64 * 4, 0.75
    assert found["data"].train_bytes == 3_000_000
    assert found["table"].train_bytes == 3_000_000 + 2 * tables - 4 * tables * three
    assert found["row"].train_bytes == found["table"].train_bytes - 80_000 * three
    assert found["data"].compute_s == pytest.approx(0.25 / 4 + 0.5)
    assert found["row"].compute_s == pytest.approx(0.75 / 4)
    assert found["data"].exchanged == {"gradients": 2 * three * 1_100, "rows": three * 700}
    assert found["row"].exchanged["layers"] == three * (2 * 4_000 + 2_000)
    assert found["row"].network_s == pytest.approx(sum(found["row"].exchanged.values()) / 1e6)
    assert "layers" not in {one.plan: one for one in estimates(whole, Ranks(4, 1e6, 0.0), False)}["row"].exchanged


def test_a_probe_measures_a_run_of_its_size():
    found = probe(build_config({"model": "lightgcn", "device": "cpu", "tensorboard": False}), SIZE, threads=1)
    nodes = 1_200 * 64 * 4
    assert found.size == SIZE and found.tables == ((1_200, 64),)
    assert found.traffic["layers"] == 2 * nodes and found.traffic["results"] == nodes
    assert found.traffic["table gradients"] == nodes and found.traffic["rows"] == found.traffic["row gradients"] == 0
    assert 0 < found.start_bytes < 2 << 30 and found.train_bytes > nodes and found.step_s > 0
    assert found.graph_bytes == pytest.approx(16_000 * 8 + 1_201 * 8, rel=0.02)  # columns and values, and offsets


def traffic_config(folder, case: str, plan: str):
    """Return the config of a model by a plan, with batches that are small beside the tables."""
    return block_config(folder, case, [], distributed={"plan": plan}, train={"batch_size": 64, "epochs": 1})


def counted_traffic(folder, case: str, plan: str) -> float:
    """Return the bytes that the first of two ranks receives in a step."""
    received = 0
    calls = {name: getattr(dist, name) for name in ("all_reduce", "all_to_all_single")}

    def counting(name):
        def call(first, *rest, **options):
            nonlocal received
            # A ring's all-reduce gives each rank twice its part of the others.
            received += first.numel() * first.element_size() * (1.0 if name == "all_reduce" else 0.5)
            return calls[name](first, *rest, **options)

        return call

    from mmfast import ranks
    from mmfast.planning import probe as probes
    from mmfast.training import build_training

    data = power_law_dataset(SIZE.users, SIZE.items, SIZE.interactions)
    run = build_training(traffic_config(folder, case, plan), data, folder, probes.resolve_device("cpu"))
    run.divide()
    run.start_epoch(0)
    for name in calls:
        setattr(dist, name, counting(name))
    gather, scatter = ranks._gather, ranks._reduce_scatter

    def gathering(out, own, *rest):
        nonlocal received
        received += (out.numel() - own.numel()) * out.element_size()
        return gather(out, own, *rest)

    def scattering(own, sent, *rest):
        nonlocal received
        received += (sent.numel() - own.numel()) * own.element_size()
        return scatter(own, sent, *rest)

    ranks._gather, ranks._reduce_scatter = gathering, scattering
    Training.step(run, next(run.sampler.epoch(0)))
    return received


@pytest.mark.parametrize(("case", "plan"), [("lightgcn", "row"), ("bpr", "data")])
def test_estimated_traffic_is_what_two_ranks_exchange(tmp_path, case, plan):
    counted = on_ranks(tmp_path / "two", counted_traffic, case, plan)
    config, size = traffic_config(tmp_path, case, plan), replace(SIZE, features={})
    parts = [probe(config, size.part(share), threads=1) for share in (0.5, 1.0)]
    found = {one.plan: one for one in estimates(draw_out(parts, size), Ranks(2, 1e9, 0.0), case == "lightgcn")}[plan]
    assert sum(found.exchanged.values()) == pytest.approx(counted, rel=0.25)


def test_the_command_needs_no_data_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMFAST_DATA", str(tmp_path))
    asked = ["plan", "model=lightgcn", "data=sports", "device=cpu", "--probe", "600", "--threads", "1"]
    assert main([*asked, "--gpus", "4", "--memory", "1GB", "--features", "image=8"]) == 0
    text = capsys.readouterr().out
    assert "lightgcn: 35,598 users, 18,357 items, 219,289 interactions, image 8, text 384" in text
    assert text.count("yes") + text.count("no\n") >= 4 and "4 ranks, from runs of 0.6% and 1.1% of that here" in text
    monkeypatch.setattr("mmfast.planning.probe.probe", lambda config, size, threads: replace(made_up(0.5), size=size))
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [plan["plan"] for plan in found["plans"]] == ["one process"] and found["plans"][0]["peak_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=mine"], "Or give the sizes: --users --items --interactions"),
        (["data=sports", "--gpus", "0"], "--ranks is 0; wanted more than 0"),
        (["data=sports", "--features", "image"], "--features got 'image'; wanted for example image=4096"),
        (["data=sports", "--memory", "much"], "got 'much'; wanted a number such as 80GB"),
    ],
)
def test_mistakes_are_told(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("MMFAST_DATA", str(tmp_path))
    assert main(["plan", "model=bpr", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_amounts():
    assert amount("1.5GB/s") == 1.5e9 and amount("64gib") == 2**36 and amount("12") == 12


def test_torchrec_is_named_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torchrec", None)
    sizes = ["--users", "400", "--items", "200", "--interactions", "2000", "--probe", "300", "--features", "text=4"]
    assert main(["plan", "model=bpr", "data=mine", "device=cpu", *sizes, "--threads", "1", "--torchrec"]) == 2
    assert "TorchRec needs torchrec and fbgemm-gpu" in capsys.readouterr().err
