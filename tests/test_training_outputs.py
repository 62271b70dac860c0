"""What a training says: CSV, TensorBoard, the terminal; and commands on data."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import sys

import pytest
from click.testing import CliRunner
from trainings import FRAMES, multi_task, table, trainer_of

from dpa2_ase.cli.convert import convert
from dpa2_ase.cli.train import train
from dpa2_ase.training.data.files import read_frames, write_frames
from dpa2_ase.training.logbook import Display


@pytest.fixture
def data(tmp_path):
    write_frames(tmp_path / "train.xyz", FRAMES[:9])
    write_frames(tmp_path / "valid.xyz", FRAMES[9:])
    return tmp_path


def test_tensorboard_has_what_the_csv_file_has(data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = multi_task(data)
    settings["output"] |= {"tensorboard": str(data / "board"), "log_every": 2, "validate_every": 2}
    trainer_of(settings).run(quiet=True)
    board = EventAccumulator(str(data / "board"))
    board.Reload()
    with (data / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = board.Tags()["scalars"]
    assert {"a/loss", "a/train/forces_rmse", "b.c/valid/energy_mae", "learning_rate"} <= set(names)
    for name in names:
        expected = {int(row["step"]): float(row[name]) for row in rows if row[name]}
        found = {event.step: event.value for event in board.Scalars(name)}
        assert found == pytest.approx(expected, rel=1e-6)  # TensorBoard keeps single precision


class Terminal(io.StringIO):
    """A terminal of 200 columns."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(monkeypatch):
    """A bar with the steps, what is left of the time, loss and errors per head."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    display = Display(3, 10, quiet=False)
    display.advance()
    display.show(4, {"water/loss": 1.25, "water/train/forces_rmse": 0.0625, "water/train/forces_mae": 0.03})
    display.close()
    text = screen.getvalue()
    assert "4/10" in text
    assert "water/loss 1.25" in text
    assert "water/train/forces_rmse 0.0625" in text
    assert "_mae" not in text
    assert ":" in text  # the time that is left


def test_remarks_are_listed_and_frames_left_out(data):
    frames = [*FRAMES[:4], dataclasses.replace(FRAMES[4], forces=FRAMES[4].forces * 100), FRAMES[0]]
    frames.append(dataclasses.replace(FRAMES[5], energy=math.inf))
    write_frames(data / "sys.lmdb", frames)
    command = [str(data / "sys.lmdb"), str(data / "new"), "--check", "--list", str(data / "remarks.csv")]
    command += ["--without", "large-force", "--without", "duplicate", "--without", "not-finite"]
    output = CliRunner().invoke(convert, command, catch_exceptions=False).output
    assert "large-force: 1" in output
    assert "(4 frames)" in output
    with (data / "remarks.csv").open() as stream:
        rows = {(row["kind"], row["frame"]) for row in csv.DictReader(stream)}
    assert {("large-force", "4"), ("duplicate", "5"), ("not-finite", "6")} <= rows
    assert [f.energy for f in read_frames(data / "new")] == [f.energy for f in FRAMES[:4]]
    weak = [str(data / "train.xyz"), str(data / "weak"), "--max-force", "0.001", "--without", "large-force"]
    assert "no frame is left" in str(CliRunner().invoke(convert, weak).exception)


def test_help_of_train():
    run = CliRunner().invoke
    text = run(train, ["--help"]).output
    assert all(name in text for name in ("init", "change-bias", "run"))
    assert "--finetune" in run(train, ["run", "-h"]).output


def test_template_is_not_written_over_a_file(tmp_path):
    (tmp_path / "train.yaml").write_text("mine")
    found = CliRunner().invoke(train, ["init", str(tmp_path / "train.yaml")])
    assert "nothing is overwritten" in str(found.exception)
    assert "no folder" in str(CliRunner().invoke(train, ["init", str(tmp_path / "no" / "x.yaml")]).exception)


def test_options_may_come_first(data):
    import yaml

    (data / "x.yaml").write_text(yaml.safe_dump(table(data, steps=1)))
    found = CliRunner().invoke(train, ["--quiet", str(data / "x.yaml")], catch_exceptions=False)
    assert found.output.startswith("written: ")
