"""The rooms import only what the house allows, heavy packages stay inside functions, and files are short and told."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import mmfast

REPOSITORY = Path(__file__).parent.parent
ROOT = REPOSITORY / "mmfast"
FILES = sorted(ROOT.rglob("*.py"))
SOURCE_FOLDERS = ("mmfast", "bench", "packaging", "tests")
WRITTEN = [REPOSITORY / "setup.py", *(p for name in SOURCE_FOLDERS for p in sorted((REPOSITORY / name).rglob("*.py")))]
MOST_LINES, MOST_FUNCTION_LINES = 400, 39
HEAVY = {
    "torchrec", "fbgemm_gpu", "open_clip", "segment_anything", "spacy", "transformers", "sentence_transformers",
    "faiss", "optuna", "matplotlib", "sklearn", "scipy", "tensorboard", "torchvision", "skimage",
    "torch.utils.tensorboard",
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
SHARED_BY_MODELS = {f"mmfast.models.{name}" for name in ("base", "features", "layers", "learned_graph", "named")}


def label(path):
    return str(path.relative_to(REPOSITORY))


def read(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module, package: str = "mmfast", top_level_only: bool = False) -> set[str]:
    """Return the modules, and the names taken from them, that a file imports; not those under `if TYPE_CHECKING`."""
    found, stack = set(), list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        stack += list(ast.iter_child_nodes(node))
    return found


def package_of(path):
    return ".".join(path.relative_to(REPOSITORY).parent.parts)


def rooms(names: set[str]) -> set[str]:
    """Return the rooms that imported names lie in; a public name of the package lies in its home."""
    public = {f"mmfast.{name}": home for name, home in mmfast._HOMES.items()}
    names = {public.get(name, name) for name in names}
    return {name.split(".")[1] for name in names if name.startswith("mmfast.")}


def heavy(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in HEAVY or any(name.startswith(h) for h in HEAVY if "." in h)}


def long_functions(tree: ast.Module) -> list[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [f.name for f in functions if f.end_lineno - f.lineno + 1 > MOST_FUNCTION_LINES]


def untold(tree: ast.Module) -> list[str]:
    """Return the public classes, functions and methods without a docstring; functions inside functions are private."""
    found, stack = [], [("", tree)]
    while stack:
        prefix, parent = stack.pop()
        for node in parent.body:
            named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            if not named or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                found.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                stack.append((f"{prefix}{node.name}.", node))
    return found


def one_sentence(text: str | None) -> bool:
    """Whether a module's docstring opens with a line that is one whole sentence, and no more than one."""
    first, _, rest = (text or "").partition("\n")
    return first.endswith(".") and not re.search(r"[.!?] [A-Z]", first) and (not rest or rest.startswith("\n"))


@pytest.mark.parametrize("path", FILES, ids=label)
def test_heavy_packages_are_imported_inside_functions(path):
    found = heavy(imports(read(path), package_of(path), top_level_only=True))
    assert not found, f"{label(path)} imports {found} at its top"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_rooms_are_entered_by_their_doors(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    entered = rooms(imports(read(path), package_of(path)))
    assert not entered & FORBIDDEN.get(room, set()), f"{label(path)} enters {entered & FORBIDDEN[room]}"


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=label)
def test_models_do_not_import_each_other(path):
    own = {n for n in imports(read(path), package_of(path)) if n.startswith("mmfast.models.")}
    others = {".".join(n.split(".")[:3]) for n in own} - SHARED_BY_MODELS
    assert not others, f"{label(path)} imports {others}"


@pytest.mark.parametrize("path", WRITTEN, ids=label)
def test_files_and_functions_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= MOST_LINES, f"{label(path)} has more than {MOST_LINES} lines"
    if text:
        assert one_sentence(ast.get_docstring(tree)), f"{label(path)} does not open with one sentence on one line"
    assert not long_functions(tree), f"{label(path)}: {long_functions(tree)} have more than {MOST_FUNCTION_LINES} lines"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_public_names_have_docstrings(path):
    assert not untold(read(path)), f"{label(path)}: {', '.join(untold(read(path)))} have no docstring"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_what_is_not_implemented_is_an_abstract_method_that_says_so(path):
    tree = read(path)
    owners = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    abstract = [f for f in owners if "(abstract)" in (ast.get_docstring(f) or "")]
    raised = ast.unparse(tree).count("NotImplementedError")
    assert all([ast.unparse(line) for line in f.body[1:]] == ["raise NotImplementedError"] for f in abstract)
    assert len(abstract) == raised


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("import mmfast.trainer", "trainer"),
        ("from mmfast.trainer import fit", "trainer"),
        ("from mmfast import trainer", "trainer"),
        ("from mmfast import fit", "trainer"),
        ("from .. import trainer", "trainer"),
        ("from ..trainer import fit", "trainer"),
        ("def f():\n    from mmfast import trainer as t", "trainer"),
        ("from . import lightgcn", "models"),
    ],
)
def test_every_way_of_importing_a_room_is_seen(text, room):
    assert room in rooms(imports(ast.parse(text), "mmfast.models"))


def test_the_checks_see_what_they_should():
    assert heavy(imports(ast.parse("try:\n    import faiss\nexcept ImportError:\n    pass"), top_level_only=True))
    assert heavy(imports(ast.parse("from torch.utils.tensorboard import SummaryWriter"), top_level_only=True))
    assert heavy(imports(ast.parse("class A:\n    from torch.utils import tensorboard"), top_level_only=True))
    assert not heavy(imports(ast.parse("def f():\n    import faiss\nimport torch"), top_level_only=True))
    assert not imports(ast.parse("if TYPE_CHECKING:\n    from mmfast import trainer"))
    assert untold(ast.parse("class A:\n    'Told.'\n    def b(self): ...\n    def _c(self): ...")) == ["A.b"]
    assert long_functions(ast.parse("class A:\n    def f():\n" + "        pass\n" * MOST_FUNCTION_LINES)) == ["f"]
    assert one_sentence("A sentence.\n\nMore of it.")
    assert not one_sentence("A sentence that\ngoes on.")
    assert not one_sentence("no sentence")
    assert not one_sentence("One sentence. Another.")
