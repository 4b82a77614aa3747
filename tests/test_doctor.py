"""The report names every version, device and op, and says why something is absent."""

from __future__ import annotations

import json

import pytest
import torch

from mmfast import doctor
from mmfast.cli import main
from mmfast.ops import _backend, use_backend


@pytest.fixture
def report():
    return doctor.examine()


def test_the_report_is_json_and_complete(report, capsys):
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == report.keys()
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["mmfast"] == "0.1.0"
    assert report["threads"]["torch"] == torch.get_num_threads()
    assert {"rank", "propagate", "knn_graph", "bpr_loss", "sample_negatives"} <= report["ops"].keys()
    assert not any("backward" in op for op in report["ops"])


def test_the_text_names_ops_and_reasons(report, capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for part in ("packages", "devices", "native extension", "ops", "sharded tables", torch.__version__):
        assert part in text
    if not torch.cuda.is_available():
        assert "cuda  none: " in text


def test_an_op_without_a_kernel_says_why():
    backends = doctor.op_backends()["rank"]
    assert backends["cpu"] == "native"
    if not torch.cuda.is_available():
        assert backends["cuda"].startswith("absent: this build has no cuda kernel; rebuild on a machine with nvcc")
    with use_backend("reference"):
        assert doctor.op_backends()["rank"] == {"cpu": "reference", "cuda": "reference"}


def test_an_absent_extension_is_reported(monkeypatch):
    monkeypatch.setattr(_backend, "_C", None)
    monkeypatch.setattr(_backend, "LOAD_ERROR", "wrong symbols")
    assert "not loaded (wrong symbols); build it with `make build`" in doctor.extension()["warning"]
    backends = doctor.op_backends()
    assert "the native extension is not loaded (wrong symbols)" in backends["rank"]["cpu"]
    assert {"adam_lazy_", "sample_triples"} <= set(backends) and "csr" not in backends


def test_an_extension_for_another_torch_is_a_warning():
    assert doctor.misfit({"torch": "2.13.0"}, "2.13.0+cpu") == ""
    assert doctor.misfit({"torch": "2.12.1"}, "2.13.0+cpu") == (
        "built for torch 2.12.1 but torch 2.13.0 runs; build it again with `make build` or `pip install -e .`"
    )


def test_packages_that_are_missing_name_their_extra(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda package: "")
    report = doctor.examine()
    assert report["versions"]["faiss-cpu"] == ""
    assert "faiss-cpu" not in report["optional"]
    assert report["optional"]["spacy"] == 'not installed; pip install -e ".[content]" in the clone of mmfast'
    assert report["sharding"]["torchrec"] == 'not installed; pip install -e ".[scale]" in the clone of mmfast'


def test_a_package_that_does_not_import_says_why():
    state = doctor.import_state("no_such_module_at_all", ("pytest",))
    assert state.startswith("does not import: ModuleNotFoundError: No module named 'no_such_module_at_all'")
    assert doctor.import_state("json", ("pytest",)) == "imports"
