"""`mmfast features`: from a prepared folder to features in its manifest, resumed after kills to the same bytes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfast import neighbours
from mmfast.cli import main
from mmfast.content import encode
from mmfast.content.encoders import EncodeConfig
from mmfast.content.features import write_features
from mmfast.content.store import Store
from mmfast.data.demo import demo_folder
from mmfast.data.manifest import read_manifest
from mmfast.data.prepared import read_prepared, read_rows, verify_prepared, write_prepared
from mmfast.device import cpu_threads
from mmfast.errors import MmfastError
from tests.content import killing, tiny
from tests.content.killing import OPTIONS

KILLS = int(os.environ.get("MMFAST_KILLS", "2"))  # 50 for the whole proof: MMFAST_KILLS=50 pytest -k kills


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_command_writes_both_modalities(shop, clip_folder, sentence_folder, capsys):
    folder, photos = shop
    (photos / "3.png").write_bytes(b"no picture")
    (photos / "5.png").unlink()
    command = ["features", str(folder), "--image", f"clip:{clip_folder}", "--text", f"sentence:{sentence_folder}"]
    command += ["--pictures", str(photos), "--workers", "0", "--device", "cpu", "--batch-size", "8"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"{folder}:"
    assert "  image: 20 x 16 float32, clip:" in out and ", 2 missing" in out and ", 0 missing" in out
    assert "    B003: it is no picture of a known format\n    B005: '5.png' is not there" in out
    assert "19 of 19 pictures, " in err and "/s" in err
    data = read_prepared(folder)
    assert data.modalities == ("image", "text") and data.missing["image"].tolist() == [3, 5]
    known = np.setdiff1d(np.arange(20), [3, 5])
    mean = data.features["image"][known].mean(0, dtype=np.float64)
    np.testing.assert_allclose(data.features["image"][[3, 5]], [mean, mean], rtol=1e-6)
    verify_prepared(folder)
    sidecar = json.loads((folder / data.manifest["features"]["image"]["file"]).with_suffix(".json").read_text())
    assert sidecar["missing"] == ["B003", "B005"] and sidecar["unreadable"].keys() == {"B003", "B005"}
    assert sidecar["settings"]["inputs_per_call"] == 8 and sidecar["settings"]["precision"] == "float32"
    before = content(folder)
    assert main([*command, "--quiet"]) == 0
    assert content(folder) == before
    assert capsys.readouterr().err == ""


def test_a_copy_leaves_the_data_as_they_are(shop, tmp_path, capsys):
    folder, _ = shop
    before = content(folder)
    out = tmp_path / "copy"
    (tmp_path / ".copy.k1ll3d_0.part").mkdir()
    assert main(["features", str(folder), "--text", "light", "--out", str(out), "--quiet"]) == 0
    assert content(folder) == before and read_prepared(out).modalities == ("text",)
    assert not list(tmp_path.glob(".copy.*"))  # what a killed run left
    assert main(["features", str(folder), "--text", "light", "--out", str(out)]) == 2
    assert "copy' exists already; choose another folder\n" in capsys.readouterr().err
    both = ["--text", "light", "--masks", "light", "--out", str(out)]
    assert main(["features", str(folder), *both]) == 2  # before the masks
    told = capsys.readouterr()
    assert "exists already" in told.err and "masks" not in told.out


def test_what_nothing_reads_is_refused_and_weights_are_looked_for_before_the_stages(shop, monkeypatch, capsys):
    folder, _ = shop
    given = ["--rule", "wider", "--max-length", "5", "--precision", "bfloat16"]
    assert main(["features", str(folder), "--text", "light", *given]) == 2
    assert "--rule, --precision, --max-length: nothing that was asked for reads it" in capsys.readouterr().err
    assert main(["features", str(folder), "--text", "light", "--device", "cpu", "--workers", "2"]) == 2
    assert "--device, --workers: nothing that was asked for reads it" in capsys.readouterr().err
    assert main(["features", str(folder), "--masks", "light", "--out", "x"]) == 2
    assert "--out: nothing that was asked for reads it" in capsys.readouterr().err
    given = ["--dtype", "float16", "--missing", "zero", "--pictures", str(folder)]
    assert main(["features", str(folder), "--objects", "parser", *given]) == 2
    assert "--pictures, --dtype, --missing: nothing that was asked for reads it" in capsys.readouterr().err
    assert main(["features", str(folder), "--masks", "sam", "--workers", "2"]) == 2
    assert "--workers: nothing that was asked for reads it" in capsys.readouterr().err
    assert main(["features", "segment", str(folder), "--with", "sam", "--processes", "2"]) == 2
    assert "--processes: only the light segmenter reads it" in capsys.readouterr().err
    assert main(["features", "describe", str(folder), "--out", "x", "--device", "cpu"]) == 2
    assert "--out, --device: only --encode reads it" in capsys.readouterr().err
    assert main(["features", "label", str(folder), "--pictures", str(folder)]) == 2
    assert "unrecognized arguments: --pictures" in capsys.readouterr().err
    monkeypatch.setattr("mmfast.commands.features_segment.run", lambda args: pytest.fail("segmented"))
    assert main(["features", str(folder), "--image", "torchvision:resnet0", "--masks", "light"]) == 2
    assert "resnet0" in capsys.readouterr().err
    monkeypatch.setattr("mmfast.commands.features_objects.run", lambda args: pytest.fail("parsed"))
    for more in ([], ["--text", "light"]):
        assert main(["features", str(folder), "--objects", "parser", "--masks", "sam", *more]) == 2
        assert "sam_vit_h_4b8939.pth" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["2024", "1e3", "null", "a: b", "[x]", "pars\U0001f600", 'it\'s "x"'])
def test_a_parser_may_have_any_name(shop, name, monkeypatch, capsys):
    def parse(texts, config, *more, **named):
        raise MmfastError(f"pipeline {config.pipeline}.")

    monkeypatch.setattr("mmfast.commands.features_objects.find_text_objects", parse)
    assert main(["features", str(shop[0]), "--objects", name]) == 2
    assert f"pipeline {name}." in capsys.readouterr().err


def test_the_published_vectors(shop, tmp_path):
    folder, _ = shop
    ids = [f"ASIN{item:06d}" for item in range(20)]
    items = pl.read_parquet(folder / "items.parquet").with_columns(id=pl.Series(ids))
    rows = read_rows(folder, read_manifest(folder))
    made = write_prepared(
        tmp_path / "amazon", name="amazon", rows=rows, users=pl.DataFrame({"id": ["u", "v"]}), items=items
    )
    file = tmp_path / "image_features_Toys.b"
    file.write_bytes(b"".join(ids[n].encode() + np.full(4096, n + 1, "<f4").tobytes() for n in range(0, 20, 2)))
    assert main(["features", str(made), "--image", f"amazon-cnn:{file}", "--quiet"]) == 0
    data = read_prepared(made)
    assert data.features["image"].shape == (20, 4096) and data.missing["image"].tolist() == list(range(1, 20, 2))
    assert (data.features["image"][1] == 10).all() and (data.features["image"][2] == 3).all()
    with pytest.raises(
        MmfastError, match=r"there is no file 'none.b'; want image_features_<category>.b from http://jmcauley.ucsd.edu/"
    ):
        write_features(made, {"image": EncodeConfig(model="amazon-cnn:none.b")})
    with pytest.raises(MmfastError, match="taken as they are: float32"):
        write_features(made, {"image": EncodeConfig(model=f"amazon-cnn:{file}", dtype="float16")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to compute; give --image ENCODER, --text ENCODER, --objects PARSER, --masks SEGMENTER"),
        (["--text", "minlm"], "text encoder 'minlm' is unknown. Did you mean 'minilm'?"),
        (["--text", "light", "--batch-size", "0"], "--batch-size: got 0; Input should be greater than or equal to 1"),
        (["--text", "light", "--missing", "none"], "--missing: got 'none'; Input should be 'mean' or 'zero'"),
        (["--text", "light", "--compat", "lattice"], "the string of LATTICE needs the columns title, brand"),
        (
            ["--image", "light", "--pictures", "no-photos"],
            "--pictures: there is no folder 'no-photos'",
        ),
        (["--image", "light"], "none of the 20 items has a picture (first: '0.png' is not there; looked in"),
    ],
)
def test_mistakes_are_one_sentence(shop, options, message, capsys):
    assert main(["features", str(shop[0]), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_light_features_of_the_demo_are_its_own():
    folder = demo_folder(num_items=30, num_users=40)
    own = read_prepared(folder)
    write_features(folder, {"image": EncodeConfig(model="light"), "text": EncodeConfig(model="light")})
    assert read_prepared(folder).fingerprint == own.fingerprint


def test_another_encoder_is_another_data_set_with_other_graphs(shop, sentence_folder, tmp_path, monkeypatch):
    folder, _ = shop
    other = tiny.save_sentence(tmp_path / "other", seed=1)
    monkeypatch.setattr(neighbours, "CACHE_ABOVE", 0)
    prints, graphs = [], []
    for model in (sentence_folder, other, sentence_folder):
        write_features(folder, {"text": EncodeConfig(model=f"sentence:{model}", device="cpu")})
        data = read_prepared(folder)
        prints.append(data.fingerprint)
        graphs.append(neighbours.item_neighbours(data, "text", 5).tolist())
        assert graphs[-1] == neighbours._compute("text", data.features["text"], 5).tolist()
    assert prints[0] == prints[2] != prints[1] and graphs[0] == graphs[2] != graphs[1]
    assert len(list((tmp_path / "cache" / "neighbours").iterdir())) == 2
    # The same name with other weights must not find the old rows either.
    shutil.copytree(other, tmp_path / "same")
    write_features(folder, {"text": EncodeConfig(model=f"sentence:{tmp_path}/same", device="cpu")})
    shutil.rmtree(tmp_path / "same")
    shutil.copytree(sentence_folder, tmp_path / "same")
    write_features(folder, {"text": EncodeConfig(model=f"sentence:{tmp_path}/same", device="cpu")})
    assert read_prepared(folder).fingerprint == prints[0]


def test_kills_at_random_moments_end_in_the_same_bytes(tmp_path, clip_folder, sentence_folder, monkeypatch):
    start, photos = tiny.write_shop(tmp_path / "start", 40)
    (photos / "7.png").write_bytes(b"no picture")
    write_features(start, {"text": EncodeConfig(model="light")}, store=Store(tmp_path / "light"))
    command = [sys.executable, "-m", "tests.content.killing", str(KILLS)]
    command += [str(path) for path in (start, photos, clip_folder, sentence_folder, tmp_path / "work")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == KILLS and told["finished"] >= 1 and told["same"] == told["finished"]
    configs = {
        "image": EncodeConfig(model=f"clip:{clip_folder}", **OPTIONS),
        "text": EncodeConfig(model=f"sentence:{sentence_folder}", **OPTIONS),
    }
    monkeypatch.setattr(encode, "BLOCK", killing.BLOCK)
    with cpu_threads(1):  # as there: a product's bits may depend on its size and on the number of threads
        write_features(start, configs, pictures=[photos])
    data = read_prepared(start)
    assert data.missing["image"].tolist() == [7]
    for modality, digest in told["hashes"].items():
        assert data.feature_hashes[modality] == digest


def test_a_copy_is_made_under_the_lock_of_the_original(shop, tmp_path, monkeypatch):
    folder, _ = shop
    copytree, held = shutil.copytree, []

    def copy(source, *arguments, **options):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # others may copy it too
            held.append(source)
        finally:
            os.close(handle)
        return copytree(source, *arguments, **options)

    monkeypatch.setattr("mmfast.content.features.shutil.copytree", copy)
    write_features(folder, {"text": EncodeConfig(model="light")}, out=tmp_path / "copy")
    assert held == [folder] and (tmp_path / "copy" / "manifest.json").is_file()


def test_a_copy_needs_no_lock_where_there_are_none(shop, tmp_path, monkeypatch):
    folder, _ = shop
    flock = fcntl.flock

    def lock(handle, operation):
        if os.path.samestat(os.fstat(handle), folder.stat()):
            raise OSError(errno.ENOLCK, "No locks available")
        flock(handle, operation)

    monkeypatch.setattr("mmfast.data.storage.fcntl.flock", lock)
    write_features(folder, {"text": EncodeConfig(model="light")}, out=tmp_path / "copy")
    assert "text" in read_prepared(tmp_path / "copy").features
