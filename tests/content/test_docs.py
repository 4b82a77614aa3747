"""Every command and example of the content room's pages runs as it is printed, or says which weights it lacks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mmfast.cli import main
from mmfast.data import demo
from tests.content import tiny
from tests.content.chat_server import ChatServer, say
from tests.content.treebank import write_treebank

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("text_objects.md", "features.md", "language_models.md")  # the first one makes the parser
WITHOUT_WEIGHTS = ("--image clip", "torchvision:resnet50", "--with sam", "--encode e5-mistral", "llama-2-13b-chat")
GOOD = "A red ceramic mug with a round handle, used for hot drinks. Brand unknown. Condition new."


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the pages speak of: a treebank, a shop of one's own, photos, and a small demo catalogue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing is fetched
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    full = demo.demo_folder
    monkeypatch.setattr(demo, "demo_folder", lambda: full(num_items=24, num_users=20))
    write_treebank(tmp_path / "data" / "ud-english-ewt")
    _, photos = tiny.write_shop(tmp_path / "data" / "shop")
    photos.rename(tmp_path / "photos")
    return tmp_path


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_commands_and_examples_run_as_printed(workplace, capsys):
    ran = 0
    with ChatServer([say(GOOD)]) as server:
        for page in PAGES:
            commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
            for command in commands:
                ran += 1
                words = shlex.split(command.replace("http://127.0.0.1:8000/v1", server.url), comments=True)
                assert words[0] == "mmfast"
                code, told = main([*words[1:], *least(command)]), capsys.readouterr()
                if any(name in command for name in WITHOUT_WEIGHTS):
                    assert code == 2 and re.search(r"mmfast: the weights of '.*: want .* from http", told.err), command
                else:
                    assert code == 0, f"{command}: {told.err}"
            for example in blocks(page, "python"):
                exec(compile(example, page, "exec"), {})  # the page's own text
    assert ran >= 17 and server.bodies
    assert all((workplace / name).exists() for name in ("objects.safetensors", "masks.safetensors", "labels.csv"))


def least(command):
    """A toy parser finds few objects: labels are not to stop over that."""
    return ["least_labelled=0"] if " label " in command else []
