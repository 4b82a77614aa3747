"""The examples in the README and the docs run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mmfast.cli import VERBS

ROOT = Path(__file__).parent.parent


def blocks(path: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_example_trains_evaluates_and_recommends(tmp_path):
    (example,) = blocks("README.md")
    assert len(example.strip().splitlines()) <= 20
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.splitlines()[0]) < 1
    assert "title" in done.stdout and (tmp_path / "vectors" / "items.faiss").is_file()


def test_the_model_and_the_framework_of_the_docs_train(tmp_path):
    model, framework = blocks("docs/adding.md")
    (tmp_path / "popular.py").write_text(model, encoding="utf-8")
    (tmp_path / "scaled.py").write_text(framework, encoding="utf-8")
    train(tmp_path, "model=popular", "imports=[popular]", "name=docs")
    train(tmp_path, "model=vbpr", "imports=[scaled]", "framework=[scaled,ogm]", "name=framework")


def train(tmp_path, *settings):
    command = [sys.executable, "-m", "mmfast.train", "data=demo", "train.epochs=1", "tensorboard=false", *settings]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name = settings[-1].removeprefix("name=")
    assert (tmp_path / "runs" / name / "metrics.json").is_file()


def test_the_table_of_models_is_of_this_code():
    code = "import sys; sys.path.insert(0, 'bench'); import models_table; sys.stdout.write(models_table.page())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert done.stdout == written, "run `python bench/models_table.py`"


def test_what_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:configs|docs|bench|mmfast)/[\w./-]*\w\.(?:yaml|md|json|py)\b", text))
    made = {f"bench/results/quality-{data}.json" for data in re.findall(r"bench/quality\.py --data (\w+)", text)}
    assert len(named) > 8 and all((ROOT / name).is_file() for name in named - made)
    (commands,) = re.findall(r"```bash\n(mmfast .*?)```", text, re.DOTALL)
    verbs = [line.split()[1] for line in commands.splitlines()]
    assert len(verbs) > 5 and set(verbs) <= set(VERBS)


def test_readme_and_package_ask_for_the_same_python():
    (readme,) = re.findall(r"Python (3\.\d+) or newer", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert f'requires-python = ">={readme}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
