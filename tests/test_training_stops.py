"""What ends a training early leaves something to go on with: Ctrl-C, the end of a batch job, a full disk."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from trainings import FRAMES, assert_same_training, multi_task, press, rows, table, trainer_of, without_time

from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.logbook import Logbook


@pytest.fixture
def data(tmp_path):
    write_frames(tmp_path / "train.xyz", FRAMES[:9])
    write_frames(tmp_path / "valid.xyz", FRAMES[9:])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    yield tmp_path
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_continues_bit_for_bit(data, number):
    settings = multi_task(data, optimizer={"ema": 0.9})
    settings["output"]["checkpoint"] = str(data / "new" / "folder" / "model.pt")
    whole = trainer_of(settings)
    whole.run(quiet=True)
    log = without_time(data / "log.csv")
    first = trainer_of(settings)
    press(first, number, after=3)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 3; continue with --restart .*model.pt"):
        first.run(quiet=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    second = trainer_of(settings, start="restart", model=data / "new" / "folder" / "model.pt")
    assert second.step_number == 3
    second.run(quiet=True)
    assert_same_training(whole, second)
    assert without_time(data / "log.csv") == log  # the row of step 4 has what was learned before and after


def test_a_second_ctrl_c_interrupts_at_once(data):
    trainer = trainer_of(table(data))
    press(trainer, signal.SIGINT, after=3, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.run(quiet=True)
    assert not str(caught.value)
    assert not (data / "model.pt").exists()


def test_a_request_in_the_last_step_changes_nothing(data):
    trainer = trainer_of(table(data))
    press(trainer, signal.SIGTERM, after=6)
    trainer.run(quiet=True)
    assert (data / "model.pt").exists()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files may not grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_checkpoint(data):
    trainer = trainer_of(table(data))
    trainer.run(quiet=True, until=2)
    before = (data / "model.pt").read_bytes()
    trainer.step()
    with full_disk(len(before) // 2), pytest.raises(OSError, match=r"model.pt cannot be written; is the disk full\?"):
        trainer.save(data / "model.pt")
    assert (data / "model.pt").read_bytes() == before
    assert not list(data.glob(".*"))


def test_a_row_cut_off_by_a_full_disk_is_left_out(data):
    path = data / "log.csv"
    log = Logbook(path, ["a", "b"], 0)
    log.write(1, {"learning_rate": 0.1, "a": 1.0, "b": 2.0})
    with full_disk(path.stat().st_size + 3), pytest.raises(OSError, match="File too large"):
        log.write(2, {"learning_rate": 0.1, "a": 1.0, "b": 2.0})
    assert len(rows(path)) == 2  # half of one
    Logbook(path, ["a", "b"], 2).write(3, {"a": 3.0})
    assert [row["step"] for row in rows(path)] == ["1", "3"]
