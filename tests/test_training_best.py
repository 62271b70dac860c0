"""The best model of a training: chosen by the errors of the log, the same after an interruption, DeePMD-kit's keys."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from trainings import (
    FRAMES,
    assert_same_training,
    deepmd_input,
    multi_task,
    parameters,
    press,
    rows,
    table,
    trainer_of,
    without_time,
)

from dpa2_ase import DPA2Calculator
from dpa2_ase.checkpoint import load_potential
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.data.frames import Frame
from dpa2_ase.training.deepmd_input import settings_of_input
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.settings import settings_of_table

VALID = FRAMES[9:]
COARSE = {"start": 0.01, "stop": 0.009, "decay_steps": 10}  # so large that errors rise again, for the seed below


@pytest.fixture
def data(tmp_path):
    write_frames(tmp_path / "train.xyz", FRAMES[:9])
    write_frames(tmp_path / "valid.xyz", VALID)
    return tmp_path


def choosing(folder: Path, metric: str = "forces_rmse", **changes: object) -> dict:
    """Settings of a training that validates after every step and keeps its best model."""
    settings = table(folder, **{"learning_rate": COARSE, "steps": 10, "seed": 5, **changes})
    settings["output"] |= {"best": str(folder / "new" / "best.pt"), "best_metric": metric, "validate_every": 1}
    return settings


def errors_of_file(path: Path, frames: list[Frame]) -> dict[str, float]:
    """Errors of a model file as somebody with ASE would compute them; eV/atom, eV/Å."""
    energies, forces, virials = [], [], []
    for frame in frames:
        atoms = Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=True)
        atoms.calc = DPA2Calculator(path, device="cpu")
        energies.append((atoms.get_potential_energy() - frame.energy) / len(atoms))
        forces.append((atoms.get_forces() - frame.forces).ravel())
        virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
        virials.append((virial - frame.virial).ravel() / len(atoms))
    differences = {"energy": energies, "forces": np.concatenate(forces), "virial": np.concatenate(virials)}
    rmse = {f"{name}_rmse": np.sqrt(np.mean(np.square(values))) for name, values in differences.items()}
    return rmse | {f"{name}_mae": np.mean(np.abs(values)) for name, values in differences.items()}


def content(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same_file(one: Path, other: Path) -> None:
    ours, theirs = content(one)["model"], content(other)["model"]
    assert ours.pop("_extra_state") == theirs.pop("_extra_state")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def notes(path: Path, head: str | None = None) -> dict:
    """What a file says of the validation of its model."""
    section = content(path)["model"]["_extra_state"]["model_params"]
    return (section if head is None else section["model_dict"][head])["info"]["validation"]


# ---- output.best ----


@pytest.mark.parametrize("optimizer", [{}, {"ema": 0.5}], ids=["parameters", "means"])
@pytest.mark.parametrize("metric", ["forces_rmse", "energy_mae", "virial_rmse"])
def test_the_best_file_has_the_lowest_errors_of_the_log(data, metric, optimizer):
    """Sums over batches in another order agree to rounding: 2e-15 found, of errors below 10 eV."""
    trainer = trainer_of(choosing(data, metric, optimizer=optimizer))
    trainer.run(quiet=True)
    log = rows(data / "log.csv")
    best = min(log, key=lambda row: float(row[f"Default/valid/{metric}"]))
    assert 1 < int(best["step"]) < 10  # neither what is written first nor the last model
    found = errors_of_file(data / "new" / "best.pt", VALID)
    for name, value in found.items():
        assert value == pytest.approx(float(best[f"Default/valid/{name}"]), abs=1e-10), name
        assert notes(data / "new" / "best.pt")[name] == float(best[f"Default/valid/{name}"])
    assert notes(data / "new" / "best.pt")["step"] == int(best["step"])
    assert notes(data / "new" / "best.pt")["selected_by"] == metric
    assert content(data / "new" / "best.pt")["model"]["_extra_state"]["train_infos"]["step"] == int(best["step"])


def best_step(folder: Path, metric: str) -> int:
    return int(min(rows(folder / "log.csv"), key=lambda row: float(row[metric]))["step"])


@pytest.mark.parametrize("shift", [-1, 1], ids=["before the best", "after the best"])
def test_an_interrupted_training_keeps_the_same_best_model(data, shift):
    """After the best step, only the stored error tells that nothing later is better."""
    settings = choosing(data, "forces_mae", optimizer={"ema": 0.5})
    whole = trainer_of(settings)
    whole.run(quiet=True)
    log, reference = without_time(data / "log.csv"), (data / "new" / "best.pt").rename(data / "reference.pt")
    first = trainer_of(settings)
    stop = best_step(data, "Default/valid/forces_mae") + shift
    assert 1 < stop < 10
    press(first, signal.SIGTERM, after=stop)
    with pytest.raises(KeyboardInterrupt):
        first.run(quiet=True)
    second = trainer_of(settings, start="restart", model=data / "model.pt")
    assert second.best.state() == first.best.state()
    second.run(quiet=True)
    assert_same_training(whole, second)
    assert second.best.state() == whole.best.state()
    assert_same_file(data / "new" / "best.pt", reference)
    assert without_time(data / "log.csv") == log


def test_another_metric_or_a_lost_file_begins_anew(data):
    settings = choosing(data, steps=4)
    trainer = trainer_of(settings)
    trainer.run(quiet=True)
    state = trainer.best.state()
    assert state[0]["found"]
    for other in (choosing(data, "energy_rmse"), settings):
        second = trainer_of(other, start="restart", model=data / "model.pt")
        assert (second.best.state() == state) == (other is settings)
    (data / "new" / "best.pt").unlink()
    assert not trainer_of(settings, start="restart", model=data / "model.pt").best.state()[0]["found"]


def test_several_heads_are_compared_by_the_mean_of_those_that_can(data):
    """Head b.c has no forces to compare with; a file holds both heads at the best step of the other one."""
    write_frames(data / "quiet.xyz", [dataclasses.replace(frame, forces=None, virial=None) for frame in VALID])
    settings = choosing(data, "forces_rmse")
    settings["heads"] = multi_task(data)["heads"]
    settings.pop("data")
    settings["heads"]["b.c"]["valid"] = str(data / "quiet.xyz")
    trainer_of(settings).run(quiet=True)
    log = rows(data / "log.csv")
    assert notes(data / "new" / "best.pt", "a")["step"] == best_step(data, "a/valid/forces_rmse")
    assert "forces_rmse" not in notes(data / "new" / "best.pt", "b.c")
    settings["output"]["best_metric"] = "energy_mae"
    trainer = trainer_of(settings)
    trainer.run(quiet=True)
    means = [np.mean([float(row[f"{head}/valid/energy_mae"]) for head in ("a", "b.c")]) for row in log]
    ((value, step),) = trainer.best.state()[0]["found"]
    assert value == pytest.approx(min(means), rel=1e-14)
    assert step == int(np.argmin(means)) + 1 == notes(data / "new" / "best.pt", "b.c")["step"]


def test_the_best_model_is_told(data, capsys):
    trainer_of(choosing(data)).run()
    lines = capsys.readouterr().out.splitlines()
    ((value, step),) = trainer_of(choosing(data), start="restart", model=data / "model.pt").best.state()[0]["found"]
    text = f"{value:.5g} eV/Å, in {data / 'new' / 'best.pt'}"
    assert f"step {step}: lowest forces_rmse so far, {text}" in lines
    assert lines[-1] == f"best model, of step {step}: forces_rmse {text}"
    trainer_of(choosing(data)).run(quiet=True)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "valid", "message"),
    [
        ({"best_metric": "force_rmse"}, ["valid"], "^output.best_metric should be one of energy_rmse, .* 'force_rmse'"),
        ({"best": "x/a.pt", "checkpoint": "x/a.pt"}, ["valid"], "^output.best and output.checkpoint are both x/a.pt"),
        (
            {},
            [],
            "^output.best_metric is forces_rmse, and no validation frame has forces: give such frames in data.val",
        ),
        ({"best_metric": "virial_mae"}, ["quiet"], "^output.best_metric is virial_mae, and no validation frame has v"),
    ],
    ids=["metric", "name", "no frames", "no label"],
)
def test_settings_are_refused_by_path(data, output, valid, message):
    write_frames(data / "quiet.xyz", [dataclasses.replace(frame, virial=None) for frame in VALID])
    settings = choosing(data)
    settings["output"] |= output
    settings["data"]["valid"] = [str(data / f"{name}.xyz") for name in valid]
    with pytest.raises(ValueError, match=message):
        trainer_of(settings)


# ---- DeePMD-kit's full validation ----


def full_validation(folder: Path, **options: object) -> dict:
    """An input of DeePMD-kit with three systems to validate, of which a validation of the log sees one frame."""
    found = deepmd_input(folder)
    found["learning_rate"] |= {"start_lr": COARSE["start"], "stop_lr": COARSE["stop"]}
    found["training"] |= {"numb_steps": 11, "save_freq": 4}
    systems = [str(folder / "valid" / name) for name in "012"]
    found["training"]["validation_data"] = {"systems": systems, "batch_size": 1, "numb_btch": 1}
    found["validating"] = {"full_validation": True, "validation_freq": 2, "full_val_start": 0.3, **options}
    found["validating"] |= {"full_val_file": str(folder / "val.log"), "validation_metric": "f:mae"} | options
    return found


@pytest.fixture
def systems(tmp_path):
    write_frames(tmp_path / "sys", [FRAMES[0], FRAMES[3]])
    (tmp_path / "valid").mkdir()
    for number, frame in enumerate(VALID):
        write_frames(tmp_path / "valid" / str(number), [frame])
    return tmp_path


def names(folder: Path, pattern: str = "best*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


@pytest.mark.parametrize("kind", ["full_validation", "ema_full_validation"])
def test_full_validation_of_deepmd(systems, kind):
    """Every second step from step int(0.3 · 11) = 3 on, all frames, the two best with their ranks in the names."""
    suffix = "_ema" if kind.startswith("ema") else ""
    settings = full_validation(systems, max_best_ckpt=2, full_validation=False) | {}
    settings["validating"][kind] = True
    settings["training"] |= {"enable_ema": True, "ema_decay": 0.5}
    trainer = make_trainer(settings_of_input(settings))
    trainer.run(quiet=True)
    log = rows(systems / f"val{suffix}.log")
    assert [int(row["step"]) for row in log] == [4, 6, 8, 10]
    ranked = sorted(log, key=lambda row: float(row["Default/valid/forces_mae"]))
    expected = [f"best{suffix}.ckpt-{row['step']}.t-{rank}.pt" for rank, row in enumerate(ranked[:2], 1)]
    assert names(systems) == sorted(expected)
    for name, row in zip(expected, ranked, strict=False):
        for key, value in errors_of_file(systems / name, VALID).items():  # tolerance as above
            assert value == pytest.approx(float(row[f"Default/valid/{key}"]), abs=1e-10), key


def test_both_full_validations_and_no_files(systems):
    settings = full_validation(systems, ema_full_validation=True, save_best=False, full_val_start=5.7)
    settings["training"] |= {"enable_ema": True, "ema_decay": 0.5}
    before = make_trainer(settings_of_input(settings | {"validating": {}}))
    before.run(quiet=True)
    log = without_time(systems / "lcurve.out")
    trainer = make_trainer(settings_of_input(settings))
    trainer.run(quiet=True)
    assert_same_training(before, trainer)
    assert without_time(systems / "lcurve.out") == log
    assert [[row["step"] for row in rows(systems / name)] for name in ("val.log", "val_ema.log")] == [
        ["6", "8", "10"]
    ] * 2
    assert rows(systems / "val.log")[0] != rows(systems / "val_ema.log")[0]
    assert not names(systems)


def test_full_validation_after_a_crash(systems):
    """From the last checkpoint, before which better models of later steps replaced others; a folder of its own."""
    settings = full_validation(systems, max_best_ckpt=3, save_best_dir=str(systems / "a" / "b"), full_val_start=0)
    settings["validating"] |= {"validation_freq": 1}
    whole = make_trainer(settings_of_input(settings))
    whole.run(quiet=True)
    log = without_time(systems / "val.log")
    folder = (systems / "a").rename(systems / "reference") / "b"
    assert len(names(folder)) == 3
    first = make_trainer(settings_of_input(settings))
    step = first.step

    def crash() -> float:
        if first.step_number == 7:
            raise MemoryError
        return step()

    first.step = crash
    with pytest.raises(MemoryError):
        first.run(quiet=True)
    second = make_trainer(settings_of_input(settings), start="restart", model=systems / "model.ckpt.pt")
    assert second.step_number == 4
    second.run(quiet=True)
    assert second.best.state() == whole.best.state()
    assert names(systems / "a" / "b") == names(folder)
    for name in names(folder):
        assert_same_file(systems / "a" / "b" / name, folder / name)
    assert without_time(systems / "val.log") == log


def test_defaults_of_full_validation_are_those_of_deepmd(systems):
    """As `dp doc-train-input` has them; 1 as the first step switches full validation off."""
    settings = deepmd_input(systems)
    settings["validating"] = {"full_validation": True}
    (found,) = settings_of_input(settings).validations
    assert (found.every, found.start, found.count, found.metric) == (5000, 0.5, 1, "energy_mae")
    assert (found.log, found.mean) == ("val.log", False)
    assert found.file == f"{systems}/best.ckpt-{{step}}.t-{{rank}}.pt"  # beside training.save_ckpt
    settings["validating"]["full_val_start"] = 1
    assert not settings_of_input(settings).validations
    settings["validating"] = {"full_validation": False, "validation_metric": "V:RMSE"}
    assert not settings_of_input(settings).validations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"validation_metric": "S:MAE"},
            "validation_metric 'S:MAE' is not supported; supported: E:MAE, .*; V, the virial",
        ),
        (
            {"validation_metric": "MAE"},
            "validation_metric 'MAE' is not supported; supported: E:MAE, E:RMSE, F:MAE, F:RM",
        ),
        (
            {"validation_metric": "v:mae"},
            "validation_metric is v:mae, and loss.start_pref_v and loss.limit_pref_v are z",
        ),
        ({"validation_freq": 0}, "validation_freq should be an integer from 1"),
        ({"max_best_ckpt": 0}, "max_best_ckpt should be an integer from 1"),
        ({"full_val_start": -1}, "full_val_start should be a number from 0, found -1"),
        ({"full_validation": "yes"}, "full_validation should be true or false, found 'yes'"),
        ({"save_best": 1}, "save_best should be true or false, found 1"),
        ({"ema_full_validation": True}, "ema_full_validation needs training.enable_ema: true"),
        ({"full_validations": True}, "full_validations is not supported; did you mean full_validation"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_full_validation_is_refused_by_path(systems, options, message):
    with pytest.raises(ValueError, match=rf"^validating\.{message}"):
        settings_of_input(full_validation(systems, **options))


def test_full_validation_needs_frames_of_one_head(systems):
    settings = full_validation(systems)
    del settings["training"]["validation_data"]
    with pytest.raises(ValueError, match=r"^training.validation_data is missing; validating.full_validation computes"):
        settings_of_input(settings)
    settings = full_validation(systems)
    model = settings["model"]
    settings["model"] = {"model_dict": {"a": model, "b": model}}
    training = {key: settings["training"].pop(key) for key in ("training_data", "validation_data")}
    settings["training"]["data_dict"] = {"a": training, "b": training}
    del settings["loss"]
    with pytest.raises(ValueError, match=r"^validating.full_validation belongs to a training of one head; output.best"):
        settings_of_input(settings)
    write_frames(systems / "none", [dataclasses.replace(VALID[0], energy=None)])
    settings = full_validation(systems, validation_metric="E:RMSE")
    settings["training"]["validation_data"]["systems"] = [str(systems / "none")]
    with pytest.raises(ValueError, match=r"^validating.validation_metric is energy_rmse, and no .* in training.valid"):
        make_trainer(settings_of_input(settings))


def test_a_training_that_keeps_its_best_model_is_the_same_training(data):
    plain = trainer_of(table(data))
    plain.run(quiet=True)
    settings = table(data)
    settings["output"] |= {"best": str(data / "best.pt")}
    trainer = trainer_of(settings)
    trainer.run(quiet=True)
    assert_same_training(plain, trainer)
    stored = load_potential(data / "best.pt").state_dict()
    last = {name.split(".", 2)[2] for name in parameters(trainer)}
    assert last <= stored.keys()
    assert settings_of_table(table(data)).output.best is None
