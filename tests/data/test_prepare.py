"""The verb `mmfast prepare`: what it writes, shows, verifies and refuses."""

import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest

from mmfast.data.prepared import read_prepared
from mmfast.errors import MmfastError
from mmfast.prepare import add_arguments, main, prepare, run
from tests.data.sources import numbered, plain_rows, write_plain


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_summary_names_counts_features_and_drops(tmp_path, capsys):
    features = {"text_feat_minilm": numbered(9, 3)}
    features["text_feat_minilm"][4] = 0
    labels = [1, 1, 1, 2, 2, 2] + [0, 0, 0, 0, 1, 2] * 11
    source = write_plain(tmp_path / "shop", labels=labels, features=features)
    assert run(parse(source, tmp_path / "out", "--name", "corner")) == 0
    shown = capsys.readouterr().out
    for words in ("corner: prepared", "12", "9 x 3 float32, encoder minilm, 1 missing", "cold user rows in valid"):
        assert words in shown
    assert read_prepared(tmp_path / "out").name == "corner"


def test_options_reach_the_manifest(tmp_path):
    source = write_plain(tmp_path / "shop", features={"a_feat": numbered(9, 2), "b_feat": numbered(9, 2)})
    out = tmp_path / "out"
    run(parse(source, out, "--split", "lattice", "--seed", 7, "--k-core", 2, "--features", "b", "--cold-users", "keep"))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["split"] == {"rule": "lattice", "seed": 7} and manifest["k_core"] == 2
    assert list(manifest["features"]) == ["b"] and manifest["cold_users"] == "keep"
    assert manifest["source"]["files"].keys() == {"interactions.csv", "b_feat.npy"}
    run(parse(source, out, "--split", "mmrec", "--features", "text=a_feat.npy", "--force"))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["features"]["text"]["source"] == "a_feat.npy" and manifest["split"]["seed"] == 999


def test_stages_say_what_is_done(tmp_path):
    source = write_plain(tmp_path / "shop", features={"text_feat": numbered(9, 3)})
    for k_core, words in ((None, "numbering users and items"), (0, "numbering users and items"), (2, "2-core")):
        heard = []
        prepare(source, tmp_path / f"out {k_core}", k_core=k_core, stage=heard.append)
        assert heard == [
            "looking for files",
            "hashing the source files",
            "reading interactions",
            "dropping repeated rows",
            words,
            "splitting",
            "describing items",
            "writing interactions",
            "writing features",
            "hashing",
        ]


def test_the_cold_split_has_its_own_seed(tmp_path):
    source = write_plain(tmp_path / "shop", rows=[(u, (u + s) % 20) for u in range(20) for s in range(9)])
    manifest = json.loads((prepare(source, tmp_path / "out", split="cold") / "manifest.json").read_text())
    assert manifest["split"] == {"rule": "cold", "seed": 123}


def test_verify(tmp_path, capsys):
    source = write_plain(tmp_path / "shop", features={"text_feat": numbered(9, 3)})
    out = prepare(source, tmp_path / ("a long name " * 9 + "[bold]"))
    assert main([str(out), "--verify"]) == 0
    assert capsys.readouterr().out == f"{out}: 4 files are as they were written\n"
    path = out / "users.parquet"
    path.write_bytes(path.read_bytes()[::-1])
    assert main([str(out), "--verify"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mmfast: prepared folder") and "users.parquet" in error and "Traceback" not in error


def test_refusals(tmp_path):
    source = write_plain(tmp_path / "shop")
    out = prepare(source, tmp_path / "out")
    with pytest.raises(MmfastError, match="exists already"):
        run(parse(source, out))
    with pytest.raises(MmfastError, match="is prepared already"):
        run(parse(out, tmp_path / "again"))
    with pytest.raises(MmfastError, match="no folder to write"):
        run(parse(source))
    with pytest.raises(MmfastError, match="is not a folder"):
        run(parse(tmp_path / "nowhere", tmp_path / "again"))
    with pytest.raises(MmfastError, match="not a mixture"):
        run(parse(source, tmp_path / "again", "--features", "text", "image=x.npy"))
    assert not (tmp_path / "again").exists()


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("out", ["shop", "shop/out", ".", "link", "other/../shop"])
def test_the_source_is_never_replaced(tmp_path, monkeypatch, capsys, out):
    source = write_plain(tmp_path / "home" / "shop")
    (tmp_path / "home" / "link").symlink_to(source)
    (tmp_path / "home" / "other").mkdir()
    before = content(tmp_path)
    monkeypatch.chdir(tmp_path / "home")
    for force in ([], ["--force"]):
        assert main(["shop", out, *force]) == 2
        error = capsys.readouterr().err
        assert "is, contains or lies inside the source 'shop'; choose a folder beside it" in error
    assert content(tmp_path) == before


def test_force_replaces_prepared_folders_only(tmp_path, capsys):
    source = write_plain(tmp_path / "shop")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.md").write_text("mine")
    assert main([str(source), str(tmp_path / "thesis"), "--force"]) == 2
    assert "is not a prepared folder" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "text.md").read_text() == "mine"
    out = prepare(source, tmp_path / "out")
    assert main([str(source), str(out), "--force", "--name", "second"]) == 0
    assert read_prepared(out).name == "second"


def test_summary_counts_repeats_and_pairs_in_two_parts(tmp_path, capsys):
    rows = [(u, i, s, [0, 0, 0, 0, 1, 2][s % 6]) for s, (u, i) in enumerate(plain_rows())]
    rows += [(0, 0, 99, 0), (0, 1, 99, 2), rows[0]]
    source = write_plain(tmp_path / "shop", rows, header="user,item,time,split")
    assert main([str(source), str(tmp_path / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("repeated rows │ 1", "repeated pairs in train │ 1", "test pairs that are in train too │ 1"):
        assert words in shown
    assert "valid pairs that" not in shown


def test_bench_prepares_a_small_file(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "bench" / "prepare.py"
    sizes = ["--rows", "40000", "--users", "3000", "--items", "800"]
    monkeypatch.setenv("PYTHONPATH", str(script.parents[1]))
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), *sizes, "--json"])
    runpy.run_path(str(script), run_name="__main__")
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == 40000 and 0 < result["kept_rows"] < 40000 and result["peak_bytes"] > 1e7
    assert result["command"] == f"python {script} {' '.join(sizes)} --json" and result["date"].startswith("20")
