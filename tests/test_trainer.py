"""The training loop: it learns, selects on validation, stops by the protocol, repeats, and says what went wrong."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from mmfast import trainer, training
from mmfast.errors import MmfastError
from mmfast.evaluate import Evaluation, evaluate
from mmfast.frameworks.base import Framework
from mmfast.logs import read_log
from mmfast.progress import Progress
from mmfast.run import Run, dataset_of, with_data_place
from mmfast.trainer import fit
from tests.data.sources import write_plain
from tests.toys import Toy, toy_config, toy_dataset


def same_log(a, b):
    def timeless(folder):
        return [{k: v for k, v in row.items() if "seconds" not in k and k != "peak_bytes"} for row in read_log(folder)]

    return timeless(a) == timeless(b)


def test_a_run_learns_and_leaves_its_folder(tmp_path):
    config = toy_config(tmp_path, train={"epochs": 30}, name="first")
    run = fit(config, toy_dataset(), progress=False)
    assert run.folder == tmp_path / "runs" / "first"
    assert run.metrics["test"]["recall@5"] > 0.6  # a random ranking of 23 items reaches about 0.25
    assert {p.name for p in run.folder.iterdir()} == {
        "best.safetensors",
        "config.yaml",
        "environment.json",
        "last.safetensors",
        "log.jsonl",
        "metrics.json",
        "per_user.parquet",
    }
    rows = read_log(run.folder)
    assert [row["epoch"] for row in rows] == list(range(30))
    assert rows[0]["loss"]["bpr"] == pytest.approx(math.log(2), abs=0.01)
    assert rows[-1]["loss"]["bpr"] < rows[0]["loss"]["bpr"]
    values = [row["valid"]["recall@5"] for row in rows]
    assert run.metrics["best_epoch"] == values.index(max(values))
    assert run.metrics["valid"] == rows[run.metrics["best_epoch"]]["valid"]
    assert run.metrics["ended"] == "epochs"
    assert json.loads((run.folder / "metrics.json").read_text()) == run.metrics
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["device"] == "cpu"
    assert set(environment["ops"]) >= {"rank", "sample_negatives"}


def test_per_user_values_carry_original_ids_and_the_test_mean(tmp_path):
    run = fit(toy_config(tmp_path), toy_dataset(), progress=False)
    table = pl.read_parquet(run.folder / "per_user.parquet")
    assert table["user"][:2].to_list() == ["A000", "A001"]
    assert table["recall@5"].mean() == pytest.approx(run.metrics["test"]["recall@5"])


def test_the_returned_model_is_the_best_one_and_loads_again(tmp_path):
    dataset = toy_dataset()
    run = fit(toy_config(tmp_path, train={"epochs": 8}), dataset, progress=False)
    loaded = Run.load(run.folder, dataset)
    assert loaded.config == run.config
    assert loaded.metrics == run.metrics
    assert torch.equal(loaded.model.table, run.model.table)
    for part in ("valid", "test"):
        assert evaluate(loaded.model, dataset, part, run.config.evaluate).metrics == run.metrics[part]


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator_alone(tmp_path):
    dataset = toy_dataset()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = fit(toy_config(tmp_path), dataset, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    second = fit(toy_config(tmp_path), dataset, progress=False)
    other = fit(toy_config(tmp_path, seed=1), dataset, progress=False)
    assert first.folder != second.folder
    assert torch.equal(first.model.table, second.model.table)
    assert same_log(first.folder, second.folder)
    assert not torch.equal(first.model.table, other.model.table)


def scripted(monkeypatch, values):
    """Let validation return `values` in turn; count the evaluations of each part."""
    calls = {"valid": 0, "test": 0}

    def told(model, dataset, part, config, **options):
        calls[part] += 1
        result = evaluate(model, dataset, part, config, **options)
        if part == "test":
            return result
        return replace(result, metrics=result.metrics | {"recall@5": values[calls["valid"] - 1]})

    monkeypatch.setattr(trainer, "evaluate", told)
    return calls


def test_stopping_needs_more_than_patience_evaluations_without_a_strict_gain(tmp_path, monkeypatch):
    calls = scripted(monkeypatch, [0.1, 0.3, 0.3, 0.2, 0.29, 0.4, 0.4, 0.4, 0.4, 0.9])
    config = toy_config(tmp_path, train={"epochs": 50, "patience": 2})
    run = fit(config, toy_dataset(), progress=False)
    # After 0.3 at epoch 1 come two equal-or-worse ones, a third exceeds patience 2.
    assert calls == {"valid": 5, "test": 1}
    assert run.metrics["best_epoch"] == 1
    assert run.metrics["epochs"] == 5
    assert run.metrics["ended"] == "patience"
    assert run.metrics["valid"]["recall@5"] == 0.3


def test_patience_zero_stops_at_the_first_evaluation_without_gain(tmp_path, monkeypatch):
    scripted(monkeypatch, [0.0, 0.1, 0.1, 0.2])
    run = fit(toy_config(tmp_path, train={"epochs": 50, "patience": 0}), toy_dataset(), progress=False)
    assert (run.metrics["epochs"], run.metrics["best_epoch"]) == (3, 1)


def test_evaluation_every_third_epoch(tmp_path, monkeypatch):
    calls = scripted(monkeypatch, [0.1, 0.2])
    run = fit(toy_config(tmp_path, train={"epochs": 7, "eval_every": 3}), toy_dataset(), progress=False)
    assert calls == {"valid": 2, "test": 1}
    assert [row["epoch"] for row in read_log(run.folder) if "valid" in row] == [2, 5]
    assert run.metrics["best_epoch"] == 5


@pytest.mark.parametrize("train", [{"epochs": 0}, {"epochs": 2, "eval_every": 5}])
def test_too_few_epochs_for_an_evaluation_keep_the_model_as_it_stands(tmp_path, train):
    run = fit(toy_config(tmp_path, train=train), toy_dataset(), progress=False)
    assert run.metrics["best_epoch"] == train["epochs"] - 1
    assert set(run.metrics["test"]) == set(run.metrics["valid"])
    again = fit(None, toy_dataset(), resume=run.folder, progress=False)
    assert again.metrics == run.metrics


def test_learning_rate_decays_by_the_protocol(tmp_path):
    config = toy_config(tmp_path, train={"epochs": 3, "learning_rate": 0.01, "lr_decay": [0.5, 2]})
    rows = read_log(fit(config, toy_dataset(), progress=False).folder)
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.01 * 0.5**0.5, 0.005])


def test_weight_decay_leaves_parameters_without_a_gradient_alone(tmp_path):
    config = toy_config(tmp_path, train={"weight_decay": 0.1})
    assert torch.equal(fit(config, toy_dataset(), progress=False).model.unused.data, torch.ones(3))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_are_computed_under_the_autocast_that_was_asked_for(tmp_path, monkeypatch, precision):
    seen, loss = set(), Toy.loss

    def watched(self, batch):
        seen.add((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return loss(self, batch)

    monkeypatch.setattr(Toy, "loss", watched)
    fit(toy_config(tmp_path, train={"precision": precision}), toy_dataset(), progress=False)
    assert {on for on, _ in seen} == {precision == "bfloat16"}
    assert precision == "float32" or {dtype for _, dtype in seen} == {torch.bfloat16}


def test_bfloat16_runs_and_keeps_float32_parameters(tmp_path):
    run = fit(toy_config(tmp_path, train={"precision": "bfloat16"}), toy_dataset(), progress=False)
    assert run.model.table.dtype == torch.float32
    assert math.isfinite(run.metrics["test"]["recall@5"])


def test_a_nan_loss_keeps_the_best_and_names_term_epoch_and_batch(tmp_path, capsys):
    config = toy_config(tmp_path, model={"explode_at": 9}, train={"epochs": 10})
    run = fit(config, toy_dataset())  # 4 batches an epoch: the tenth is the second of epoch 3
    message = "the loss term 'bpr' became nan at epoch 3, batch 2"
    assert message in run.metrics["ended"]
    assert message in capsys.readouterr().err
    assert run.metrics["epochs"] == 2
    assert len(read_log(run.folder)) == 2
    assert torch.isfinite(run.model.table).all()


def test_a_nan_loss_before_any_evaluation_is_an_error(tmp_path):
    config = toy_config(tmp_path, model={"explode_at": 0})
    with pytest.raises(MmfastError, match=r"became nan at epoch 1, batch 1.*nothing to keep"):
        fit(config, toy_dataset(), progress=False)
    assert not list((tmp_path / "runs").iterdir())


def test_vectors_that_break_in_the_last_step_of_an_epoch_keep_the_best(tmp_path, capsys):
    config = toy_config(tmp_path, model={"break_at": 11}, train={"epochs": 10})  # the last of the 4 batches of epoch 3
    run = fit(config, toy_dataset())
    message = "the model's vectors became nan or inf in the last batch of epoch 3"
    assert message in run.metrics["ended"]
    assert message in capsys.readouterr().err
    assert run.metrics["epochs"] == 2
    assert torch.isfinite(run.model.table).all()
    with pytest.raises(MmfastError, match=r"last batch of epoch 1.*nothing to keep"):
        fit(toy_config(tmp_path, model={"break_at": 3}), toy_dataset(), progress=False)


def test_a_mapping_is_a_config(tmp_path):
    config = toy_config(tmp_path, name="mapped", train={"epochs": 1})
    run = fit(config.model_dump(mode="json"), toy_dataset(), progress=False)
    assert run.config == with_data_place(config)
    with pytest.raises(MmfastError, match="1 mistake in the config"):
        fit({"model": "toy", "seeds": 3}, toy_dataset(), progress=False)
    for wrong in (None, "configs/demo.yaml"):
        with pytest.raises(MmfastError, match=f"fit: config: got {type(wrong).__name__}; give load_config"):
            fit(wrong, toy_dataset(), progress=False)


def test_cut_offs_above_the_number_of_items_are_told(tmp_path, capsys):
    note = "note: only 24 items are ranked: metrics at 50 are of the whole ranking\n"
    for top_k in ([5, 24], [5, 50]):
        run = fit(toy_config(tmp_path, evaluate={"top_k": top_k}, train={"epochs": 1}), toy_dataset())
        assert (note in capsys.readouterr().err) == (50 in top_k)
    assert run.metrics["test"]["recall@50"] == 1


def test_a_run_is_evaluated_with_its_own_settings(tmp_path):
    run = fit(toy_config(tmp_path), toy_dataset(), progress=False)
    assert evaluate(run, part="test").metrics == run.metrics["test"]


def test_a_start_that_was_killed_does_not_block_its_name(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(folder, name):
        raise Killed

    config = toy_config(tmp_path, name="mine", train={"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            fit(config, toy_dataset(), progress=False)
    assert not (tmp_path / "runs/mine").exists()
    (tmp_path / "runs/mine").mkdir()  # what a kill between two steps may leave
    assert fit(config, toy_dataset(), progress=False).metrics["epochs"] == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_preparing_data_is_told_unless_progress_is_off(tmp_path, monkeypatch, capsys):
    config = toy_config(tmp_path, data={"name": str(write_plain(tmp_path / "shop"))})
    for progress in (False, True):
        monkeypatch.setenv("MMFAST_CACHE", str(tmp_path / f"cache {progress}"))
        dataset_of(config, progress)
        assert ("writing interactions" in capsys.readouterr().err) == progress


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(MmfastError, match=r"cannot write '.*/runs/mine': .*no folder can be made there"):
        fit(toy_config(tmp_path, name="mine"), toy_dataset(), progress=False)


def test_a_monitor_that_is_not_evaluated(tmp_path):
    for monitor, top_k, nearest in (
        ("recall@15", [5, 10], "recall@5"),
        ("recall@20", [5000], "recall@5000"),
        ("recal@10", [5, 10], "recall@10"),
    ):
        told = f"'{monitor}' is not evaluated; set train.monitor={nearest}, or another of those "
        with pytest.raises(MmfastError, match=told):
            toy_config(tmp_path, train={"monitor": monitor}, evaluate={"top_k": top_k})
        config = toy_config(tmp_path)
        changed = {
            "train": config.train.model_copy(update={"monitor": monitor}),
            "evaluate": config.evaluate.model_copy(update={"top_k": tuple(top_k)}),
        }
        with pytest.raises(MmfastError, match=told):
            fit(config.model_copy(update=changed), toy_dataset(), progress=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("device", "message"), [("tpu", "got 'tpu'; choose auto, cpu"), ("cuda:99", "'cuda:99' was asked but")]
)
def test_a_device_that_is_not_there(tmp_path, device, message):
    with pytest.raises(MmfastError, match=message):
        fit(toy_config(tmp_path, device=device), toy_dataset(), progress=False)


def test_threads_are_restored(tmp_path):
    before = torch.get_num_threads()
    fit(toy_config(tmp_path, threads=before + 1, train={"epochs": 1}), toy_dataset(), progress=False)
    assert torch.get_num_threads() == before


def test_frameworks_nest_outermost_last(tmp_path, monkeypatch):
    order = []

    class Recorder(Framework):
        registry_name = "recorder"

        def prepare(self, fit):
            super().prepare(fit)
            order.append((self.config.name, fit.folder.name))

        def loss(self, batch):
            return {**self.inner.loss(batch), self.config.name: self.scale.square()}

        def __init__(self, inner, config=None):
            super().__init__(inner, config)
            self.scale = torch.nn.Parameter(torch.tensor(1.0))

    monkeypatch.setattr("mmfast.registry.FRAMEWORKS._entries", {"inner": Recorder, "outer": Recorder})
    config = toy_config(tmp_path, framework=["inner", "outer"], name="nested")
    dataset = toy_dataset()
    run = fit(config, dataset, progress=False)
    assert order == [("inner", "nested"), ("outer", "nested")]
    assert list(read_log(run.folder)[0]["loss"]) == ["bpr", "reg", "inner", "outer"]
    assert read_log(run.folder)[-1]["loss"]["outer"] < 1.0  # a framework's own parameter is trained
    assert torch.equal(Run.load(run.folder, dataset).model.table, run.model.table)


def test_a_name_that_is_taken(tmp_path):
    dataset = toy_dataset()
    config = toy_config(tmp_path, name="mine")
    fit(config, dataset, progress=False)
    before = (tmp_path / "runs/mine/log.jsonl").read_bytes()
    with pytest.raises(MmfastError, match="exists and is finished with this same config"):
        fit(config, dataset, progress=False)
    (tmp_path / "runs/mine/metrics.json").unlink()
    with pytest.raises(MmfastError, match="this same config and is not finished: continue it with `mmfast train --res"):
        fit(config, dataset, progress=False)
    with pytest.raises(MmfastError, match=r"run '.*mine' exists with other settings; choose another name"):
        fit(toy_config(tmp_path, name="mine", seed=3), dataset, progress=False)
    assert (tmp_path / "runs/mine/log.jsonl").read_bytes() == before


def test_a_model_that_cannot_be_built_leaves_no_folder(tmp_path, monkeypatch):
    def refuse(config, dataset, folder):
        raise MmfastError("no features")

    monkeypatch.setattr(training, "build_framework", refuse)
    with pytest.raises(MmfastError, match="no features"):
        fit(toy_config(tmp_path), toy_dataset(), progress=False)
    assert not (tmp_path / "runs").exists()


def test_loading_says_what_is_wrong(tmp_path):
    run = fit(toy_config(tmp_path, name="good"), toy_dataset(), progress=False)
    with pytest.raises(MmfastError, match=r"'.*/goof' is not a run folder .*Did you mean 'good'\?"):
        Run.load(run.folder.with_name("goof"))
    with pytest.raises(MmfastError, match="was trained on other data: 'toys'"):
        Run.load(run.folder, toy_dataset(shift=1))
    (run.folder / "metrics.json").unlink()
    with pytest.raises(MmfastError, match="is not finished; finish it with `mmfast train --resume"):
        Run.load(run.folder, toy_dataset())


def test_progress_on_a_terminal_draws_and_elsewhere_prints_one_line(tmp_path, monkeypatch, capsys):
    config = toy_config(tmp_path, train={"epochs": 2})
    fit(config, toy_dataset())
    plain = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert len(plain) == 2
    assert "recall@5" in plain[0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("mmfast.progress.REDRAW_SECONDS", 0.0)
    fit(config, toy_dataset())
    assert "epoch 2/2" in capsys.readouterr().err
    fit(config, toy_dataset(), progress=False)
    assert capsys.readouterr().err == ""


def test_progress_is_throttled():
    shown = Progress(1, "recall@5", show=False)
    assert not shown.due()


def test_the_result_types():
    assert Evaluation.__dataclass_params__.frozen


@pytest.mark.parametrize(
    ("content", "what"), [('{"a', "Unterminated string"), ("{}", "best_epoch, valid"), ("3", "int")]
)
def test_damaged_metrics_are_one_sentence_that_says_how_they_come_back(tmp_path, content, what):
    run = fit(toy_config(tmp_path, train={"epochs": 2}), toy_dataset(), progress=False)
    (run.folder / "metrics.json").write_text(content)
    with pytest.raises(
        MmfastError, match=rf"metrics.json' is damaged \(.*{what}.*; remove it and `mmfast train --resume"
    ):
        Run.load(run.folder, toy_dataset())
