"""configs/elec_freedom_ptm.yaml without its data: every part that is missing is named, with where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfast.cli import main
from tests.content import tiny
from tests.frameworks.shops import write_shop

CONFIG = str(Path(__file__).parent.parent.parent / "configs" / "elec_freedom_ptm.yaml")


@pytest.fixture(autouse=True)
def an_empty_machine(tmp_path, monkeypatch):
    for name in ("MMFAST_CACHE", "MMFAST_DATA", "HF_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)


def told(capsys, *settings):
    assert main(["train", CONFIG, *settings, "train.epochs=0", "framework.first.epochs=0", "device=cpu"]) == 2
    return capsys.readouterr().err


def test_all_three_parts_are_told_at_once(capsys, tmp_path):
    error = told(capsys)
    assert "3 mistakes in the config" in error
    assert "data: the files of data set 'elec' are not in" in error and "meta_Electronics.json.gz" in error
    assert "framework.pictures: there are no photos. Fetch the items' photos" in error and "imUrl" in error
    assert "framework.encoder: the weights of 'clip:ViT-B-16-quickgelu:openai' are not on this machine" in error
    assert "from https://huggingface.co/" in error and "without it: framework.encoder=small" in error
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_photos_that_is_not_there_is_told(capsys, tmp_path):
    error = told(capsys, f"framework.pictures=[{tmp_path / 'photos'}]", "framework.encoder=small")
    assert "2 mistakes" in error and f"framework.pictures: there is no folder '{tmp_path / 'photos'}'" in error


def test_data_without_photos_or_weights_say_so(capsys, tmp_path):
    shop = write_shop(tmp_path / "shop", without_photo=range(20))
    clip = tiny.save_clip(tmp_path / "clip")
    error = told(capsys, f"data={shop}", f"framework.encoder=clip:{clip}")
    assert "none of the 20 items has a picture" in error and "with framework.pictures=[FOLDER]" in error
    (clip / "open_clip_model.safetensors").unlink()
    photographed = write_shop(tmp_path / "photographed")
    error = told(capsys, f"data={photographed}", f"framework.encoder=clip:{clip}")
    assert "cannot be loaded" in error and "without it: framework.encoder=small" in error


def test_with_its_parts_the_file_runs_as_it_stands(tmp_path, capsys):
    clip = tiny.save_clip(tmp_path / "clip")
    shop = write_shop(tmp_path / "shop")
    settings = [f"data={shop}", f"framework.encoder=clip:{clip}", "framework.tuning.prompt_depth=1"]
    short = ["train.epochs=1", "framework.first.epochs=1", "device=cpu", "tensorboard=false", "name=run"]
    assert main(["train", CONFIG, *settings, *short]) == 0
    assert (tmp_path / "runs" / "run" / "metrics.json").is_file()
