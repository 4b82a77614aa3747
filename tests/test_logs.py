"""The log keeps whole rows and whole events, says what is missing, and tells a full disk in one sentence."""

from __future__ import annotations

import sys

import pytest

from mmfast.errors import MmfastError
from mmfast.logs import NO_TENSORBOARD, Events, RunLog, read_log
from mmfast.trainer import fit
from tests.full_disk import full_after
from tests.toys import toy_config, toy_dataset

ROW = {"epoch": 0, "lr": 0.5, "loss": {"bpr": 1.0}, "valid": {"recall@5": 0.25}}


def scalars(folder):
    """Return (tag, epoch, value) of every event below a run folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb")).Reload()
    return [(tag, e.step, e.value) for tag in sorted(events.Tags()["scalars"]) for e in events.Scalars(tag)]


def test_tensorboard_reads_what_was_logged(tmp_path):
    with RunLog(tmp_path, tensorboard=True) as log:
        log.write(ROW)
    assert scalars(tmp_path) == [("loss/bpr", 0, 1.0), ("lr", 0, 0.5), ("valid/recall@5", 0, 0.25)]


def test_tensorboard_shows_a_repeated_epoch_once(tmp_path):
    with RunLog(tmp_path, tensorboard=True) as log:
        position = 0
        for epoch in range(3):
            log.write({"epoch": epoch, "lr": 0.5, "loss": {"bpr": 1.0}})
            position = position or log.sync()
    with RunLog(tmp_path, position, first_epoch=1, tensorboard=True) as log:
        log.write({"epoch": 1, "lr": 0.5, "loss": {"bpr": 2.0}})
    assert [(step, value) for tag, step, value in scalars(tmp_path) if tag == "loss/bpr"] == [(0, 1.0), (1, 2.0)]
    assert [row["epoch"] for row in read_log(tmp_path)] == [0, 1]


def test_a_full_disk_keeps_whole_rows(tmp_path):
    with pytest.raises(MmfastError, match=r"cannot write '.*log\.jsonl': .*File too large; nothing half written"):
        with RunLog(tmp_path) as log:
            log.write(ROW)
            with full_after(log.sync() + 5):
                log.write(ROW)
    assert read_log(tmp_path) == [ROW]


def test_a_full_disk_keeps_whole_events(tmp_path):
    events = Events(tmp_path / "tb", 0)
    events.add(0, {"lr": 0.5})
    (file,) = (tmp_path / "tb").iterdir()
    before = file.read_bytes()
    message = r"cannot write '.*tb/events\.out\.tfevents\..*': .*File too large; nothing half written"
    with pytest.raises(MmfastError, match=message), full_after(len(before) + 5):
        events.add(1, {"lr": 0.25})
    events.close()
    assert file.read_bytes() == before
    assert scalars(tmp_path) == [("lr", 0, 0.5)]


def test_training_on_a_full_disk_ends_in_one_sentence(tmp_path):
    config = toy_config(tmp_path, tensorboard=True, name="full", train={"epochs": 50})
    with (
        pytest.raises(MmfastError, match=r"cannot write '.*runs/full/.*': .*File too large") as failure,
        full_after(2000),
    ):
        fit(config, toy_dataset(), progress=False)
    assert "\n" not in str(failure.value)
    assert not list((tmp_path / "runs/full").glob("*.part"))


def test_tensorboard_that_is_not_installed_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    config = toy_config(tmp_path, tensorboard=True, train={"epochs": 1})
    with pytest.warns(UserWarning, match="TensorBoard is not installed") as caught:
        run = fit(config, toy_dataset(), progress=False)
    assert str(caught[0].message) == NO_TENSORBOARD
    assert len(read_log(run.folder)) == 1
