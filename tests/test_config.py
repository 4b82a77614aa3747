"""Configs: defaults, overrides, the round trip, and every mistake told at once with a suggestion."""

from __future__ import annotations

import pytest
import yaml

from mmfast.config import FrameworkConfig, RunConfig, build_config, load_config
from mmfast.errors import MmfastError
from mmfast.frameworks.base import Framework
from mmfast.registry import FRAMEWORKS, MODELS
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
    settings = ["train.epochs=5", "model.embedding_dim=4", "evaluate.top_k=[3, 7]", "train.monitor=map@7", "name=x"]
    config = load_config(path, settings)
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
    again = load_config(None, ["model=lightgcn", "model.dropout=0.3", "model=toy"])
    assert again.model == toys.Toy.Config(name="toy", dropout=0.3)
    with pytest.raises(MmfastError, match=r"model\.num_layers: unknown key\. Known here: name, embedding_dim, dropout"):
        load_config(None, ["model=lightgcn", "model.num_layers=1", "model=toy"])


def test_arguments_compose_with_a_mapping_as_with_a_file(tmp_path):
    given = {"model": {"name": "lightgcn", "num_layers": 4}, "train": {"epochs": 9}}
    config = load_config(given, ["model.dropout=0.3", "model=toy"])
    assert config == load_config(write(tmp_path / "a.yaml", yaml.safe_dump(given)), ["model.dropout=0.3", "model=toy"])
    assert (config.model, config.train.epochs) == (toys.Toy.Config(name="toy", dropout=0.3), 9)
    assert given["model"] == {"name": "lightgcn", "num_layers": 4}


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
    with pytest.raises(MmfastError, match=r"learning_rate: unknown key\. Did you mean 'train.learning_rate'\?"):
        load_config(None, ["model=toy", "learning_rate=1e-3"])
    with pytest.raises(MmfastError, match=r"embedding_dim: unknown key\. Did you mean 'model.embedding_dim'\?"):
        load_config(None, ["model=toy", "embedding_dim=32"])


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
        ("train.epochs=true", r"train\.epochs: got 'true'; input should be a valid integer"),
        ("train.learning_rate=false", r"train\.learning_rate: got 'false'; input should be a valid number"),
        ("seed=[1]", r"seed: got \[1\]; input should be a valid integer"),
        ("framework=ckdd", r"framework\.name: unknown framework 'ckdd'"),
        ("imports=[no_such_module]", r"imports: cannot import 'no_such_module'"),
        ("imports=json", r"imports: got 'json'; input should be a valid tuple"),
        ("imports=5", r"imports: got 5; input should be a valid tuple"),
        ("framework=5", r"framework: got 5; give a name, or a mapping with a name"),
        ("model=5", r"model: got 5; give a name, or a mapping with a name and its options\. Names: .*toy"),
        ("model={name: [1]}", r"model: got \{'name': \[1\]\}; give a name"),
        ("evaluate.top_k=[]", r"evaluate\.top_k: got \[\]; tuple should have at least 1 item"),
        ("evaluate.top_k=[5, 0]", r"evaluate\.top_k\.1: got 0; input should be greater than 0"),
        ("evaluate.metrics=[]", r"evaluate\.metrics: got \[\]; tuple should have at least 1 item"),
        ("evaluate.metrics=[recal]", r"evaluate\.metrics: unknown metric 'recal'\. Did you mean 'recall'\?"),
        ("evaluate.batch_users=0", r"evaluate\.batch_users: got 0; input should be greater than or equal to 1"),
        ("train.epochs=-1", r"train\.epochs: got -1; input should be greater than or equal to 0"),
        ("train.weight_decay=-1", r"train\.weight_decay: got -1; input should be greater than or equal to 0"),
        ("data.k_core=-1", r"data\.k_core: got -1; input should be greater than or equal to 0"),
        ("data.split_seed=-1", r"data\.split_seed: got -1; input should be greater than or equal to 0"),
        ("data.name=''", r"data\.name: got ''; string should have at least 1 character"),
        (
            "data.features={audio:x.npy}",
            r"data\.features: got \{'audio:x.npy': None\}; wanted None: every modality found",
        ),
        ("seed=-1", r"seed: got -1; input should be greater than or equal to 0"),
        ("seed=9223372036854775808", r"seed: got 9223372036854775808; input should be less than or equal to 92"),
    ],
)
def test_bad_values(argument, message):
    with pytest.raises(MmfastError, match=rf"^1 mistake in the config:\n  {message}"):
        load_config(None, ["model=toy", argument])


NONSENSE = [
    ("embedding_dim", 0, "greater than or equal to 1"),
    ("reg_weight", -0.1, "greater than or equal to 0"),
    ("num_layers", -1, "greater than or equal to 0"),
    ("num_item_layers", -1, "greater than or equal to 0"),
    ("k", 0, "greater than or equal to 1"),
    ("edge_dropout", -0.1, "greater than or equal to 0"),
    ("edge_dropout", 1, "less than 1"),
    ("image_weight", 1.5, "less than or equal to 1"),
    ("modality_weights.text", -1, "greater than or equal to 0"),
]


@pytest.mark.parametrize("model", ["bpr", "lightgcn", "vbpr", "freedom"])
def test_numbers_that_make_no_sense_for_a_model(model):
    fields = MODELS.get(model).Config.model_fields
    told = [(key, value, wanted) for key, value, wanted in NONSENSE if key.split(".")[0] in fields]
    assert len(told) >= 2
    for key, value, wanted in told:
        with pytest.raises(MmfastError, match=rf"model\.{key}: got {value}; input should be {wanted}"):
            load_config(None, [f"model={model}", f"model.{key}={value}"])
    with pytest.raises(MmfastError, match=r"3 mistakes(.|\n)*batch_size(.|\n)*embedding_dim(.|\n)*reg_weight"):
        load_config(None, [f"model={model}", "model.reg_weight=-1", "train.batch_size=0", "model.embedding_dim=0"])


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
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(MmfastError, match=r"is not YAML: .*utf-8"):
        load_config(tmp_path / "latin.yaml")
    with pytest.raises(MmfastError, match=r"1: unknown key|keys should be strings"):
        load_config(write(tmp_path / "d.yaml", "model: toy\n1: 2\n"))
    with pytest.raises(MmfastError, match="holds a list; wanted keys and values"):
        load_config(write(tmp_path / "c.yaml", "- 1\n"))


def test_configs_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config(None, ["model=toy"]).seed = 3
    assert RunConfig.model_config["extra"] == "forbid"


def test_metrics_and_monitor_are_told_beside_other_mistakes():
    with pytest.raises(MmfastError) as told:
        load_config(None, ["model=toy", "evaluate.metrics=[recal]", "train.bach=2", "evaluate.top_k=[5]"])
    message = str(told.value)
    assert message.startswith("2 mistakes") and "evaluate.metrics: " in message and "train.bach: unknown key" in message
    with pytest.raises(MmfastError) as told:
        load_config(None, ["model=toy", "train.monitor=recall@3", "seed=x"])
    assert str(told.value).startswith("2 mistakes") and "'recall@3' is not evaluated" in str(told.value)
