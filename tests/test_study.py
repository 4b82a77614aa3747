"""Studies: the shipped ones are valid; a small one makes its table, goes on where it was stopped, tells failures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from mmfast.cli import main
from mmfast.config import load_config
from mmfast.errors import MmfastError
from mmfast.logs import read_log
from mmfast.run import Run
from mmfast.study import combinations, load_study, merged, plan, run_study, slug
from tests.toys import interrupt_fit

ROOT = Path(__file__).parent.parent
SMALL = {
    "title": "Small",
    "base": {
        "data": "demo",
        "model": {"embedding_dim": 8},
        "train": {"epochs": 1, "batch_size": 4096},
        "evaluate": {"modalities": True},
        "tensorboard": False,
        "device": "cpu",
    },
    "models": {"VBPR": {"model": {"name": "vbpr", "fusion": "channels"}}},
    "methods": {
        "text only": {"framework": {"name": "masked", "hide": ["image"]}},
        "+ CKD": {"framework": {"name": "ckd", "teachers": {"text": "{folder}/{model}-text-only-seed{seed}"}}},
    },
    "seeds": [1, 2],
    "metrics": ["recall@20"],
    "modalities": True,
}


def study_file(tmp_path, **changes) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path):
    study = load_study(path, [])
    names = [
        plan(study, model, method, 1, Path("out"), settings).name
        for model in study.models
        for method in study.methods
        for settings in combinations(study, method)
    ]
    assert len(set(names)) == len(names) > 2
    if "+ CKD" in study.methods:
        ckd = plan(study, "VBPR", "+ CKD", 2, Path("out")).framework[0]
        assert ckd.teachers == {m: f"out/vbpr-{m}-only-seed2" for m in ("text", "image")}
        others = {name.replace("seed1", "seed2") for name in names}
        assert {Path(folder).name for folder in ckd.teachers.values()} <= others


def test_the_studies_of_ptmrec_are_its_ablation_and_its_table_2():
    def runs(name):
        study = load_study(ROOT / "configs" / "studies" / f"{name}.yaml", ["framework.micro_batch=64"])
        assert study.costs
        return {method: plan(study, "FREEDOM", method, 1, Path("out")) for method in study.methods}

    ablation = runs("demo_ptmrec")
    variants = {method: [section.variant for section in run.framework] for method, run in ablation.items()}
    full, first = ablation["full"], ablation["full"].framework[0].first
    assert variants == {
        "original": [],
        "CLIP-frozen": ["clip-frozen"],
        "CLIP-prompt": ["clip-prompt"],
        "w/o loss": ["without-loss"],
        "full": ["full"],
    }
    for method in ("original", "CLIP-frozen"):  # trained as stage 1 of the others is
        train = ablation[method].train
        assert train == full.train.model_copy(update=first.model_dump())
    assert full.framework[0].micro_batch == 64
    tunings = {run.framework[0].tuning.method for run in runs("demo_ptmrec_tunings").values()}
    assert tunings == {"prompt", "lora", "adapter"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    assert load_config(path).model.name in path.stem


def test_a_small_study_makes_its_table_and_repeats_nothing(tmp_path, monkeypatch):
    trained = interrupt_fit(monkeypatch, 3)
    study, out = load_study(study_file(tmp_path), []), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_study(study, out, progress=False)
    rows = run_study(study, out, progress=False)
    assert len(rows) == 2 and all(len(values) == 2 for row in rows for values in row.values.values())
    assert list(rows[1].values) == ["recall@20", "recall@20 text", "recall@20 image"]
    assert (
        list(rows[0].values) == ["recall@20", "recall@20 text"]
        and rows[0].values["recall@20"] == rows[0].values["recall@20 text"]
    )
    count = len(trained)
    assert run_study(study, out, progress=False) == rows and len(trained) == count
    lines = (out / "table.md").read_text().splitlines()
    assert lines[2].startswith("| model | method | recall@20 |") and lines[4].startswith("| VBPR | text only | 0.")
    points = list(csv.DictReader((out / "curves.csv").read_text().splitlines()))
    assert {(p["method"], p["modality"]) for p in points} >= {
        ("+ CKD", "image"),
        ("+ CKD", "all"),
        ("text only", "text"),
    }
    assert json.loads((out / "study.json").read_text())["rows"][0]["values"] == rows[0].values


def test_a_tuned_method_is_chosen_on_validation_and_alone_looks_at_test(tmp_path):
    tune = {"+ CKD": {"framework.distillation_weight": [0.0, 0.5]}}
    path = study_file(tmp_path, tune=tune, modalities=False)
    out = tmp_path / "out"
    row = run_study(load_study(path, []), out, progress=False)[1]
    assert len(row.values["recall@20"]) == 2
    tried = {
        value: json.loads((out / f"vbpr-ckd-{slug(str(value))}-seed1/metrics.json").read_text()) for value in (0.0, 0.5)
    }
    best = max(tried, key=lambda value: (tried[value]["valid"]["recall@20"], -value))
    assert row.tuned == {"framework.distillation_weight": best}
    assert {value: "test" in metrics for value, metrics in tried.items()} == {0.0: best == 0.0, 0.5: best == 0.5}
    other = 0.5 - best
    assert not (out / f"vbpr-ckd-{slug(str(other))}-seed2").exists()
    assert f"| VBPR | + CKD (distillation_weight {best}) | 0." in (out / "table.md").read_text()
    with pytest.raises(MmfastError, match=r"tune: there is no method '\+ CDK'\. Did you mean '\+ CKD'"):
        load_study(study_file(tmp_path, tune={"+ CDK": {"model.reg_weight": [1]}}), [])


def test_costs_are_columns(tmp_path):
    study = load_study(study_file(tmp_path, modalities=False, costs=True, methods={"plain": {}}), ["train.epochs=3"])
    (row,) = run_study(study, tmp_path / "out", progress=False)
    assert list(row.values) == ["recall@20", "parameters", "epoch s", "peak MiB"]
    run = Run.load(tmp_path / "out" / "vbpr-plain-seed1")
    assert row.values["parameters"] == [sum(p.numel() for p in run.model.parameters())] * 2
    seconds = sorted(epoch["seconds"] for epoch in read_log(run.folder))
    assert row.values["epoch s"][0] == seconds[1] and 50 < row.values["peak MiB"][0] < 10_000
    line = (tmp_path / "out" / "table.md").read_text().splitlines()[4]
    assert f"| {int(row.values['parameters'][0]):,} |" in line


def test_mistakes_are_told_before_training_and_other_studies_refused(tmp_path):
    wrong = load_study(study_file(tmp_path, methods={"+ CKD": {"framework": {"name": "ckdd"}}}), [])
    with pytest.raises(MmfastError, match=r"(?s)study: VBPR, \+ CKD: .*Did you mean .ckd."):
        run_study(wrong, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(MmfastError, match=r"methos: unknown key\. Did you mean 'methods'"):
        load_study(study_file(tmp_path, methos={}), [])
    bare = {"methods": {"plain": {}}, "seeds": [1], "modalities": False}
    run_study(load_study(study_file(tmp_path, **bare), []), tmp_path / "out", progress=False)
    with pytest.raises(MmfastError, match="is of other settings; choose another folder"):
        run_study(load_study(study_file(tmp_path, **bare), ["train.epochs=2"]), tmp_path / "out", progress=False)


def test_a_failing_row_is_told_in_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = study_file(
        tmp_path,
        models={"BPR": {"model": {"name": "bpr"}}},
        modalities=False,
        methods={"ckd": {"framework": "ckd"}, "plain": {}},
    )
    assert main(["study", str(path), "study.seeds=[1]", "--out", "out", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "| BPR | ckd | - | 0, failed: ckd balances the modalities" in text and "| BPR | plain | 0." in text
    assert main(["study", "model=bpr"]) == 2
    assert "give the YAML file of a study" in capsys.readouterr().err


def test_processes_share_a_study_by_models(tmp_path, monkeypatch, capsys):
    trained = interrupt_fit(monkeypatch, 100)
    path = study_file(
        tmp_path,
        models={name: {"model": {"name": name.lower()}} for name in ("BPR", "VBPR")},
        modalities=False,
        methods={"plain": {}},
        seeds=[1],
    )
    out = tmp_path / "out"
    assert main(["study", str(path), "--out", str(out), "--quiet", "--models", "VBPR"]) == 0
    text = capsys.readouterr().out
    assert "| VBPR |" in text and "| BPR |" not in text and not (out / "table.md").exists()
    rows = run_study(load_study(path, []), out, progress=False)
    assert [row.model for row in rows] == ["BPR", "VBPR"] and len(trained) == 2
    assert main(["study", str(path), "--out", str(out), "--models", "vbp"]) == 2
    assert "there is no model 'vbp'; choose from BPR, VBPR" in capsys.readouterr().err


def test_names_and_settings():
    assert slug("+ CKD (w/o Gen.)") == "ckd-w-o-gen"
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": [1]}) == {"a": {"b": 3, "c": 2}, "d": [1]}
