"""Configs: defaults, overrides, the round trip, and every mistake told at once with a suggestion."""

from __future__ import annotations

import pytest

from mmfast.config import FrameworkConfig, RunConfig, build_config, load_config
from mmfast.errors import MmfastError
from mmfast.frameworks.base import Framework
from mmfast.registry import FRAMEWORKS
from tests import toys  # registers the model "toy"


def write(path, text):
    path.write_text(text)
    return path


def test_defaults_are_the_protocols():
    config = load_config(None, ["model=toy"])
    assert (config.train.batch_size, config.train.learning_rate, config.train.epochs) == (2048, 1e-3, 1000)
    assert (config.train.patience, config.train.monitor, config.seed) == (20, "recall@20", 999)
    assert config.evaluate.top_k == (5, 10, 20, 50)
    assert isinstance(config.model, toys.Toy.Config)


def test_arguments_win_over_the_file(tmp_path):
    path = write(tmp_path / "a.yaml", "model: {name: toy, dropout: 0.5}\ntrain: {epochs: 9}\nseed: 1\n")
    config = load_config(path, ["train.epochs=5", "model.embedding_dim=4", "evaluate.top_k=[3, 7]", "name=x"])
    assert (config.train.epochs, config.seed, config.name) == (5, 1, "x")
    assert (config.model.dropout, config.model.embedding_dim) == (0.5, 4)
    assert config.evaluate.top_k == (3, 7)


def test_the_last_of_two_equal_arguments_wins():
    assert load_config(None, ["model=toy", "seed=1", "seed=2"]).seed == 2


def test_values_are_yaml():
    config = load_config(None, ["model=toy", "threads=null", "train.lr_decay=[0.96, 50]", "train.learning_rate=1.0e-4"])
    assert config.threads is None
    assert config.train.lr_decay == (0.96, 50.0)
    assert config.train.learning_rate == 1e-4


def test_naming_another_model_drops_the_options_of_the_former(tmp_path):
    path = write(tmp_path / "a.yaml", "model: {name: lightgcn, num_layers: 4}\n")
    assert load_config(path, ["model=toy"]).model == toys.Toy.Config(name="toy")
    assert load_config(path, ["model=lightgcn"]).model.num_layers == 4


def test_a_data_name_may_be_given_alone():
    assert load_config(None, ["model=toy", "data=baby", "data.k_core=5"]).data.k_core == 5
    assert build_config({"model": "toy", "data": "baby"}).data.name == "baby"


def test_the_order_of_a_section_and_its_options_does_not_matter():
    config = load_config(None, ["model.num_layers=1", "model=lightgcn", "data.k_core=3", "data=baby"])
    assert config.model.num_layers == 1
    assert (config.data.name, config.data.k_core) == ("baby", 3)
    assert load_config(None, ["train.batch_size=7", "train={epochs: 3}", "model=toy"]).train.batch_size == 7
    assert load_config(None, ["seed=2", "model=toy", "seed=1"]).seed == 1
    again = load_config(None, ["model=lightgcn", "model.num_layers=1", "model=toy", "model.dropout=0.3"])
    assert again.model == toys.Toy.Config(name="toy", dropout=0.3)


def test_options_of_a_framework_join_its_name():
    name = "options-join"

    @FRAMEWORKS.register(name)
    class Weighted(Framework):
        class Config(FrameworkConfig):
            weight: float = 1.0

    for order in (("framework.weight=2", f"framework={name}"), (f"framework={name}", "framework.weight=2")):
        assert load_config(None, ["model=toy", *order]).framework == (Weighted.Config(name=name, weight=2),)


def test_the_yaml_round_trip(tmp_path):
    config = load_config(
        None,
        ["model=toy", "model.dropout=0.1", "data.features={image: i.npy}", "evaluate.round_digits=4", "imports=[json]"],
    )
    again = load_config(write(tmp_path / "c.yaml", config.to_yaml()))
    assert again == config
    assert again.to_yaml() == config.to_yaml()


def test_unknown_keys_are_suggested():
    with pytest.raises(MmfastError, match=r"train\.epoch: unknown key\. Did you mean 'epochs'\? Known here: epochs,"):
        load_config(None, ["model=toy", "train.epoch=5"])
    with pytest.raises(MmfastError, match=r"model\.dropuot: unknown key\. Did you mean 'dropout'\?"):
        load_config(None, ["model=toy", "model.dropuot=0.1"])
    with pytest.raises(MmfastError, match=r"seeds: unknown key\. Did you mean 'seed'\?"):
        load_config(None, ["model=toy", "seeds=1"])


def test_several_mistakes_are_told_at_once():
    with pytest.raises(MmfastError) as failure:
        load_config(None, ["model=tyo", "train.epochs=many", "train.precision=float16", "devcie=cpu"])
    message = str(failure.value)
    assert message.startswith("4 mistakes in the config:")
    assert "model.name: unknown model 'tyo'. Did you mean 'toy'?" in message
    assert "train.epochs: got 'many'; input should be a valid integer" in message
    assert "train.precision: got 'float16'; input should be 'float32' or 'bfloat16'" in message
    assert "devcie: unknown key. Did you mean 'device'?" in message


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("train.batch_size=0", r"train\.batch_size: got 0; input should be greater than or equal to 1"),
        ("train.learning_rate=.inf", r"train\.learning_rate: got inf; input should be a finite number"),
        ("train.lr_decay=[0, 50]", r"train\.lr_decay\.0: got 0; input should be greater than 0"),
        ("train.lr_decay=[1, 0]", r"train\.lr_decay\.1: got 0; input should be greater than 0"),
        ("name=../../x", r"name: got '\.\./\.\./x'; a run's name is one folder name without / and"),
        ("name=..", r"name: got '\.\.'; a run's name is one folder name"),
        ("name=''", r"name: got ''; a run's name is one folder name"),
        ("evaluate.top_k=5", r"evaluate\.top_k: got 5; input should be a valid tuple"),
        ("evaluate.candidates=warm", r"evaluate\.candidates: got 'warm'; input should be 'all' or 'cold'"),
        ("seed=[1]", r"seed: got \[1\]; input should be a valid integer"),
        ("framework=ckdd", r"framework\.name: unknown framework 'ckdd'"),
        ("imports=[no_such_module]", r"imports: cannot import 'no_such_module'"),
    ],
)
def test_bad_values(argument, message):
    with pytest.raises(MmfastError, match=message):
        load_config(None, ["model=toy", argument])


def test_a_missing_model_lists_the_models():
    with pytest.raises(MmfastError, match=r"model: missing; choose one of .*toy.*, for example model=lightgcn"):
        load_config(None, ["seed=1"])


def test_bad_arguments():
    with pytest.raises(MmfastError, match=r"argument 'epochs' is not key=value; write for example train\.epochs=5"):
        load_config(None, ["model=toy", "epochs"])
    with pytest.raises(MmfastError, match=r"argument 'seed=\[1': the value is not YAML"):
        load_config(None, ["model=toy", "seed=[1"])
    with pytest.raises(MmfastError, match=r"argument 'seed\.x=1': 'seed' holds 3, which has no keys inside"):
        load_config(None, ["model=toy", "seed=3", "seed.x=1"])


def test_files_that_are_no_configs(tmp_path):
    write(tmp_path / "demo.yaml", "model: toy\n")
    with pytest.raises(MmfastError, match=r"demos\.yaml' does not exist\. Did you mean 'demo\.yaml'\?"):
        load_config(tmp_path / "demos.yaml")
    with pytest.raises(MmfastError, match="is not YAML"):
        load_config(write(tmp_path / "b.yaml", "a: [1\n"))
    with pytest.raises(MmfastError, match="holds a list; wanted keys and values"):
        load_config(write(tmp_path / "c.yaml", "- 1\n"))


def test_configs_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config(None, ["model=toy"]).seed = 3
    assert RunConfig.model_config["extra"] == "forbid"
