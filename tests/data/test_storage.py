"""Folders that appear whole: what killed writers left beside them is removed, what living ones write is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmfast.data import storage

WRITER = """
import sys, time
from pathlib import Path
from mmfast.data.storage import new_folder
with new_folder(Path(sys.argv[1])) as work:
    (work / "half").write_bytes(b"half")
    print(work, flush=True)
    time.sleep(600)
"""


def test_parts_of_killed_writers_are_removed_and_those_of_living_ones_are_not(tmp_path):
    target, other = tmp_path / "made [1]", tmp_path / ".made [1].more.abcdefgh.part"
    other.mkdir()  # of another target
    command = [sys.executable, "-c", WRITER, target]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as writer:
        try:
            part = Path(writer.stdout.readline().rstrip("\n"))
            with pytest.raises(ZeroDivisionError), storage.new_folder(target):
                assert (part / "half").is_file()
                raise ZeroDivisionError
        finally:
            writer.kill()
    assert (part / "half").is_file()
    with storage.new_folder(target):
        assert not part.parent.exists()
    assert sorted(tmp_path.iterdir()) == sorted([target, other])


def test_a_part_that_is_gone_when_it_is_looked_at_is_nobodys(tmp_path):
    storage.remove_abandoned(tmp_path / ".made.abcdefgh.part")
    assert not list(tmp_path.iterdir())
