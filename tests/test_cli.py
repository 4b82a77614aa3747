"""The command line from end to end on a small data set, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import mmfast
from mmfast import demo, run, trainer
from mmfast.cli import VERBS, main
from mmfast.config import DataConfig, DistributedConfig, EvaluateConfig, RunConfig, TrainConfig, load_config
from mmfast.data.dataset import Dataset
from tests.toys import toy_dataset

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
    """The config of a toy run names no data on disk."""
    for module in (run, trainer):
        monkeypatch.setattr(module, "dataset_of", lambda config, progress=True: toy_dataset())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture
def trained(folder, capsys):
    """A finished run, trained by the first test that asks."""
    path = folder / "runs" / "first"
    if not path.exists():
        assert main(["train", *settings(folder), "name=first"]) == 0
        capsys.readouterr()
    return str(path)


def settings(folder, epochs=4):
    values = ["model=toy", "train.monitor=recall@5", "train.learning_rate=0.05", "evaluate.top_k=[5, 10]"]
    return [*values, f"train.epochs={epochs}", "train.batch_size=32", f"out={folder}/runs", "tensorboard=false"]


def test_help_lists_every_command(capsys):
    for argv in ([], ["--help"], ["help"]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert all(f"  {verb} " in text for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mmfast {mmfast.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mmfast {verb}")
    assert f"examples:\n  mmfast {verb}" in text
    with pytest.raises(SystemExit):
        main(["help", verb])
    assert capsys.readouterr().out == text


def test_the_help_of_train_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.split("settings:")[1].splitlines() if line.strip()}
    keys = set(RunConfig.model_fields) - {"model", "framework", "data", "train", "evaluate", "distributed"}
    for section in (DataConfig, TrainConfig, EvaluateConfig, DistributedConfig):
        keys |= {f"{section.__name__.removesuffix('Config').lower()}.{key}" for key in section.model_fields}
    assert lines.keys() == keys
    assert "int = 2048" in lines["train.batch_size"] and "Training rows per step." in lines["train.batch_size"]
    assert "tuple[int, ...] = (5, 10, 20, 50)" in lines["evaluate.top_k"]


def test_options_and_settings_mix(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("model: toy\n")
    assert main(["train", "seed=3", "--show", str(tmp_path / "a.yaml"), "train.epochs=2"]) == 0
    text = capsys.readouterr().out
    assert "seed: 3" in text and "epochs: 2" in text


def test_a_wrong_option_is_one_sentence(capsys):
    assert main(["evaluate", "runs/x", "--part", "tset"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmfast: evaluate: argument --part: invalid choice: 'tset'")
    assert error.endswith("See `mmfast evaluate --help`\n") and error.count("\n") == 1


def test_an_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert "unknown command 'trian'. Did you mean 'train'? Commands: train, " in capsys.readouterr().err


def test_errors_are_one_message_without_a_traceback(capsys):
    assert main(["train", "model=toy", "train.epoch=3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmfast: 1 mistake in the config:")
    assert "Traceback" not in error


def test_show_prints_a_config_that_reloads(tmp_path, capsys):
    assert main(["train", *settings(tmp_path), "--show"]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "shown.yaml") == load_config(None, settings(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_train_prints_metrics_and_resumes(folder, trained, capsys):
    assert main(["train", *settings(folder), "name=printed", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "best epoch " in shown.out
    assert "recall@5" in shown.out
    assert main(["train", "--resume", f"{folder}/runs/printed", "train.epochs=6"]) == 0
    assert "of 6 (ended by epochs)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to train; give a YAML file or key=value arguments"),
        (["lightgcn", "demo"], "argument 'lightgcn' is neither a YAML file nor key=value (without blanks); write for"),
        (["model", "=", "lightgcn"], "argument 'model' is neither a YAML file nor key=value"),
        (["--model", "lightgcn"], "Settings are written key=value without dashes, for example model=lightgcn"),
        (["--tpyo"], "train: unrecognized arguments: --tpyo. Settings are written"),
        (["a.yaml", "b.yaml"], "got 2 config files (a.yaml, b.yaml); give one file"),
        (["--resume", "runs/none"], "'runs/none' is not a run folder"),
        (["a.yaml", "--resume", "runs/x"], "--resume uses the config of 'runs/x'; leave out 'a.yaml'"),
    ],
)
def test_train_without_sense(arguments, message, capsys):
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_exits_with_130(monkeypatch, capsys, tmp_path):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "finish", interrupted)
    assert main(["train", *settings(tmp_path), "name=stopped"]) == 130
    assert f"continue with `mmfast train --resume {tmp_path}/runs/stopped`" in capsys.readouterr().err


def test_evaluate_repeats_the_runs_numbers_and_takes_options(trained, tmp_path, capsys):
    assert main(["evaluate", trained, "--json"]) == 0
    report, stored = json.loads(capsys.readouterr().out), json.loads(Path(trained, "metrics.json").read_text())
    assert {part: report[part]["metrics"] for part in report} == {part: stored[part] for part in ("valid", "test")}
    out = tmp_path / "users.parquet"
    assert main(["evaluate", trained, "--per-user", str(out)]) == 0
    text = capsys.readouterr().out
    assert "metric        valid    test" in text
    assert f"{stored['valid']['recall@5']:.5f}  {stored['test']['recall@5']:.5f}" in text
    table = pl.read_parquet(out)
    assert table.columns[:2] == ["part", "user"]
    assert table.filter(part="test")["recall@5"].mean() == pytest.approx(stored["test"]["recall@5"])
    assert main(["evaluate", trained, "--part", "valid", "--top-k", "3", "--per-user", str(out)]) == 0
    text = capsys.readouterr().out
    assert "recall@3     0." in text and "test:" not in text
    assert pl.read_parquet(out)["user"][0] == "A000"
    assert main(["evaluate", trained, "--hide", "image"]) == 2
    assert "hide: Toy reads no modality 'image'. It reads: none" in capsys.readouterr().err
    assert main(["evaluate", trained, "--top-k", "0"]) == 2
    assert "--top-k: got 0; give cut-offs of 1 or more" in capsys.readouterr().err
    assert main(["evaluate", trained, "--top-k", "24", "25", "5000", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["test"]["metrics"]["recall@5000"] == 1
    assert shown.err == "note: only 24 items are ranked: metrics at 25, 5000 are of the whole ranking\n"
    assert main(["evaluate", trained, "--ndcg", "retrieved", "--round-digits", "2", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["test"]["metrics"]["recall@5"] == round(stored["test"]["recall@5"], 2)
    assert "ndcg=retrieved" in shown.err
    assert main(["evaluate", trained, "--round-digits", "-1"]) == 2
    assert "--round-digits: got -1; give 0 digits or more" in capsys.readouterr().err
    assert main(["evaluate", trained, "--candidates", "cold"]) == 2
    assert "evaluate.candidates=cold: none of the 30 users" in capsys.readouterr().err


def test_recommend_prints_and_writes(trained, tmp_path, capsys):
    assert main(["recommend", trained, "--users", "A003", "A004", "-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["user", "rank", "item", "title", "score"]
    assert len(lines) == 5
    (tmp_path / "users.txt").write_text("A003\nA004\n")
    out = tmp_path / "out.parquet"
    assert main(["recommend", trained, "--users-file", str(tmp_path / "users.txt"), "--out", str(out)]) == 0
    assert pl.read_parquet(out).height == 20
    assert main(["recommend", trained, "--users", "A003", "--out", "x.json"]) == 2
    assert "'.json' is not known; write .parquet or .csv" in capsys.readouterr().err
    assert main(["recommend", trained, "--users", "A003", "-k", "5000"]) == 2
    assert "k: got 5000, but there are 24 items to choose from; ask for 1 to 24" in capsys.readouterr().err
    assert main(["recommend", trained, "--users", "A00"]) == 2
    assert "unknown user id 'A00'" in capsys.readouterr().err


def test_similar_export_and_compare(trained, folder, tmp_path, capsys):
    assert main(["similar", trained, "--items", "B004", "-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["export", trained, "--out", str(tmp_path / "out"), "--no-index"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["train", *settings(folder, epochs=1), f"out={tmp_path}", "name=other", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["compare", trained, str(tmp_path / "other")]) == 0
    assert "95 % interval" in capsys.readouterr().out


def test_models_lists_options_with_their_meaning(capsys):
    assert main(["models"]) == 0
    assert "lightgcn (model): " in capsys.readouterr().out
    assert main(["models", "lightgcn"]) == 0
    text = capsys.readouterr().out
    assert "num_layers" in text
    assert "Propagation layers" in text
    assert main(["models", "lightgnc"]) == 2
    assert "unknown model 'lightgnc'. Did you mean 'lightgcn'?" in capsys.readouterr().err


def test_demo_trains_and_shows_titles(tmp_path, capsys):
    changes = [f"out={tmp_path}/runs", "model=toy", *settings(tmp_path)[1:]]
    assert main(["demo", *changes]) == 0
    text = capsys.readouterr().out
    assert "items in training" in text
    assert "recommended" in text
    assert "Toy " in text


def test_demo_refuses_an_unknown_user_before_training(tmp_path, capsys):
    assert main(["demo", f"out={tmp_path}/runs", "model=toy", *settings(tmp_path)[1:], "--user", "nobody"]) == 2
    assert "unknown user id 'nobody': none of the 30 users of the data has it. The first one is 'A000'" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "runs").exists()


def test_demo_is_the_shipped_config():
    shipped = load_config(ROOT / "configs" / "demo_freedom.yaml")
    assert load_config(demo.SETTINGS) == shipped


def test_titles_are_shown_as_they_are(trained, monkeypatch, capsys):
    monkeypatch.setattr(Dataset, "item_title", lambda self, item: "[red] kite [/red] [/x]")
    demo.show_user(run.Run.load(trained, toy_dataset()))
    assert "[red] kite [/red] [/x]" in capsys.readouterr().out


def test_demo_settings_come_in_any_order(monkeypatch):
    seen = []
    monkeypatch.setattr(trainer, "fit", lambda config, data: seen.append(config) or sys.exit())
    for order in (["model.num_layers=1", "model=lightgcn"], ["model=lightgcn", "model.num_layers=1"]):
        with pytest.raises(SystemExit):
            main(["demo", *order, "train.epochs=5"])
    assert seen[0] == seen[1]
    assert (seen[0].model.name, seen[0].model.num_layers, seen[0].train.patience) == ("lightgcn", 1, 10)


def mistakes(arguments, code=""):
    """Return what `mmfast train` says about its arguments in a fresh process, which then runs `code`."""
    code = f"import sys\nfrom mmfast.cli import main\nassert main(sys.argv[1:]) == 2\n{code}\n"
    command = [sys.executable, "-c", code, "train", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_mistakes_in_names_are_told_without_loading_torch():
    for arguments, message in (
        (["configs/none.yaml"], "mmfast: config file 'configs/none.yaml' does not exist."),
        (["epochs"], "mmfast: argument 'epochs' is neither a YAML file nor key=value"),
        (["model=lightgnc"], "mmfast: 1 mistake in the config:\n  model.name: unknown model 'lightgnc'. Did you mean"),
    ):
        assert mistakes(arguments, "assert 'torch' not in sys.modules").startswith(message)


def test_all_mistakes_are_told_at_once():
    told = mistakes(["model=lightgcn", "model.num_layer=3", "data=bayb", "train.epoch=5", "evaluate.top_k=[]"])
    assert told.startswith("mmfast: 4 mistakes in the config:\n")
    for message in (
        "\n  train.epoch: unknown key. Did you mean 'epochs'?",
        "\n  evaluate.top_k: got []",
        "\n  data: unknown data set 'bayb': no built-in name, no folder in '",
        "\n  model.num_layer: unknown key. Did you mean 'num_layers'?",
    ):
        assert message in told


def test_modules_run_as_commands():
    # One interpreter for all of them: importing torch takes seconds.
    code = (
        "import runpy, sys\n"
        "for verb in ('', '.train', '.doctor', '.evaluate', '.recommend', '.prepare', '.demo', '.features'):\n"
        "    module = 'mmfast' + verb\n"
        "    sys.argv = ['x', '--help']\n"
        "    sys.modules.pop(module if '.' in module else '', None)\n"
        "    try:\n"
        "        runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as stop:\n"
        "        print('exit', stop.code)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    usages = [line for line in result.stdout.splitlines() if line.startswith(("usage:", "exit"))]
    assert usages[0].startswith("usage: mmfast <command>")
    verbs = [usage.split()[2] for usage in usages[2::2]]
    assert verbs == ["train", "doctor", "evaluate", "recommend", "prepare", "demo", "features"]
    assert usages[1::2] == ["exit 0"] * 8
    assert result.stderr == ""


def test_the_package_is_lazy_and_names_what_it_has():
    code = "import sys, mmfast.cli; mmfast.cli.main([]); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")
    for name in mmfast.__all__:
        assert getattr(mmfast, name) is not None
    assert set(mmfast.__all__) <= set(dir(mmfast))
    with pytest.raises(AttributeError, match="module 'mmfast' has no attribute 'fti'"):
        mmfast.fti  # noqa: B018
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{mmfast.__version__}"' in project


def test_a_warning_is_a_sentence(tmp_path):
    code = "import warnings; warnings.warn('something to know', stacklevel=1)"
    module = tmp_path / "warner.py"
    module.write_text(f"EXAMPLES = ''\ndef add_arguments(parser): pass\ndef run(args):\n    {code}\n")
    program = "from mmfast import cli; cli.VERBS['warn'] = ('warner', ''); cli.main(['warn'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "mmfast: warning: something to know\n"
