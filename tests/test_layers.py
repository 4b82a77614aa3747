"""The rooms import only what the house allows (DESIGN section 3), and heavy packages only inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mmfast"
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {
    "torchrec", "fbgemm_gpu", "open_clip", "segment_anything", "spacy", "transformers", "sentence_transformers",
    "faiss", "optuna", "matplotlib", "sklearn", "tensorboard", "torchvision", "skimage",
}  # fmt: skip
# room -> rooms of mmfast that it must not import
FORBIDDEN = {
    "ops": {"data", "models", "frameworks", "graph", "trainer", "evaluate", "content", "embeddings"},
    "graph": {"data", "models", "frameworks", "trainer", "evaluate", "content"},
    "data": {"models", "frameworks", "trainer", "evaluate", "graph", "recommend", "checkpoint"},
    "models": {"trainer", "frameworks", "evaluate", "checkpoint", "recommend", "cli", "content"},
    "frameworks": {"trainer", "evaluate", "cli"},
    "evaluate": {"frameworks", "trainer"},
    "content": {"models", "frameworks", "trainer", "evaluate"},
    "config": {"data", "models", "ops", "trainer", "graph"},
    "registry": {"data", "models", "ops", "trainer", "graph", "config"},
}


def imports(path: Path, top_level_only: bool) -> list[str]:
    """Return the modules a file imports, those under `if TYPE_CHECKING` left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found, stack = [], list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        stack += list(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_are_imported_inside_functions(path):
    heavy = {name for name in imports(path, top_level_only=True) if name.split(".")[0] in HEAVY}
    assert not heavy, f"{path.name} imports {heavy} at its top"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_entered_by_their_doors(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    entered = {name.split(".")[1] for name in imports(path, False) if name.startswith("mmfast.")}
    assert not entered & FORBIDDEN.get(room, set()), f"{path} enters {entered & FORBIDDEN[room]}"


def test_models_do_not_import_each_other():
    for path in (ROOT / "models").glob("*.py"):
        others = {n for n in imports(path, False) if n.startswith("mmfast.models.")}
        shared = {f"mmfast.models.{name}" for name in ("base", "features", "named")}
        assert others <= shared, f"{path.name} imports {others}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{path} has more than 400 lines"
    if path.name != "__init__.py" or text:
        assert ast.get_docstring(ast.parse(text)), f"{path} opens without a sentence"
