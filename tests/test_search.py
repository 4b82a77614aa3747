"""Search: the grid is trained once each, chosen on validation, tested once, and goes on where it was stopped."""

from __future__ import annotations

import json

import pytest
import yaml

from mmfast.cli import main
from mmfast.errors import MmfastError
from mmfast.search import search, with_settings
from tests.toys import interrupt_fit

RAW = {
    "model": {"name": "bpr", "embedding_dim": 8},
    "data": "demo",
    "train": {"epochs": 1, "batch_size": 4096},
    "tensorboard": False,
    "device": "cpu",
}
AXES = {"model.reg_weight": [0.1, 1.0], "train.learning_rate": [0.001, 0.01]}


def test_grid_is_tried_whole_and_the_best_is_tested_once(tmp_path):
    found = search(RAW, AXES, tmp_path / "s", progress=False)
    assert len(found.trials) == 4
    values = [row["value"] for row in found.trials]
    assert values == sorted(values, reverse=True) and found.valid == values[0]
    tried = {json.dumps(row["settings"], sort_keys=True) for row in found.trials}
    assert len(tried) == 4 and found.best == found.trials[0]["settings"]
    tested = [row["run"] for row in found.trials if "test" in read(tmp_path / "s" / row["run"] / "metrics.json")]
    assert tested == [found.trials[0]["run"]]
    best = yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())
    assert best["model"]["reg_weight"] == found.best["model.reg_weight"]
    assert read(tmp_path / "s" / "search.json")["test"] == found.metrics["test"]


def read(path):
    return json.loads(path.read_text())


def test_a_stopped_search_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    trained = interrupt_fit(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        search(RAW, AXES, tmp_path / "s", progress=False)
    found = search(RAW, AXES, tmp_path / "s", progress=False)
    assert len(found.trials) == 4 and len({row["run"] for row in found.trials}) == 4
    assert len(trained) == 3 + 2 + 1  # two trials were left, then the look at test
    again = search(RAW, AXES, tmp_path / "s", progress=False)
    assert again.trials == found.trials


def test_two_workers_find_what_one_finds(tmp_path):
    one = search(RAW, {"model.reg_weight": [0.1, 1.0]}, tmp_path / "one", progress=False)
    two = search(RAW, {"model.reg_weight": [0.1, 1.0]}, tmp_path / "two", workers=2, progress=False)
    assert two.trials == one.trials and two.metrics["test"] == one.metrics["test"]


def test_ranges_take_as_many_trials_as_told(tmp_path):
    axes = {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    found = search(RAW, axes, tmp_path / "s", trials=2, progress=False)
    rates = [row["settings"]["train.learning_rate"] for row in found.trials]
    assert len(set(rates)) == 2 and all(1e-4 <= rate <= 1e-2 for rate in rates)


def test_a_bad_combination_is_told_in_the_table(tmp_path):
    found = search(RAW, {"train.learning_rate": [0.01, 1e30]}, tmp_path / "s", progress=False)
    assert found.best == {"train.learning_rate": 0.01}
    assert found.trials[1]["value"] is None and "became" in found.trials[1]["reason"]


@pytest.mark.parametrize(
    ("axes", "trials", "message"),
    [
        ({}, None, "no axes; give lists of values"),
        ({"model.reg_weight": []}, None, "wanted a list of values"),
        ({"model.reg_weight": {"low": 2.0, "high": 1.0}}, 3, "with low < high"),
        ({"model.reg_weight": {"low": 0.1, "high": 1.0}}, None, "ranges need --trials N"),
        ({"model.regweight": [0.1]}, None, "regweight"),
        ({"model.reg_weight": [0.1, "much"]}, None, "reg_weight"),
    ],
)
def test_axes_that_do_not_fit_are_refused_before_training(tmp_path, axes, trials, message):
    with pytest.raises(MmfastError, match=message):
        search(RAW, axes, tmp_path / "s", trials=trials, progress=False)
    assert not (tmp_path / "s").exists()


def test_a_folder_of_another_search_is_refused(tmp_path):
    search(RAW, {"model.reg_weight": [0.1]}, tmp_path / "s", progress=False)
    with pytest.raises(MmfastError, match="is of other settings or axes; choose another folder"):
        search(RAW, {"model.reg_weight": [1.0]}, tmp_path / "s", progress=False)


def test_settings_go_to_their_sections():
    raw = with_settings({"model": "bpr", "train": {"epochs": 3}}, {"model.reg_weight": 0.5, "seed": 2})
    assert raw == {"model": {"name": "bpr", "reg_weight": 0.5}, "train": {"epochs": 3}, "seed": 2}


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {**RAW, "search": {"model.reg_weight": [0.1]}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(config))
    assert main(["search", "s.yaml", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "model.reg_weight=0.1" in out and "best: runs/search-demo-bpr/best.yaml" in out
    assert main(["search", "s.yaml", "model.reg_weight=[0.1,1.0]", "--out", "two", "--quiet"]) == 0
    assert "model.reg_weight=1.0" in capsys.readouterr().out
    assert main(["search", "model=bpr", "data=demo"]) == 2
    assert "nothing to try; give lists" in capsys.readouterr().err
