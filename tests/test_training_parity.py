"""Losses, parameter gradients and learning rates against numbers of DeePMD-kit 3.2.0; see make_training_cases.py."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.checkpoint.names import our_name
from dpa2_ase.model import Potential
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.data.frames import Frame
from dpa2_ase.training.deepmd_input import settings_of_input
from dpa2_ase.training.head_data import frame_set
from dpa2_ase.training.loss import LossConfig, Prefactor, loss_terms, total_loss
from dpa2_ase.training.metrics import Errors
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.schedules import LearningRateConfig, learning_rate
from dpa2_ase.training.trainer import predict

DATA = Path(__file__).parent / "data"
STORED = np.load(DATA / "training" / "gradients.npz")
RATIO = 0.4
ALL = {
    "energy": Prefactor(0.02, 1.0),
    "forces": Prefactor(1000.0, 1.0),
    "virial": Prefactor(0.5, 2.0),
    "atomic_energies": Prefactor(0.3, 0.1),
    "weighted_forces": Prefactor(0.7, 0.2),
}
NO_WEIGHTED = {**ALL, "weighted_forces": Prefactor()}
LOSSES = {
    "mse": LossConfig(**ALL),
    "mse-intensive-relative": LossConfig(**ALL, relative_force=0.7, intensive=True),
    "mae": LossConfig(**ALL, function="mae"),
    "mae-norm": LossConfig(**ALL, function="mae", force_norm=True),
    "huber": LossConfig(**NO_WEIGHTED, function="huber", huber_delta=(0.3,)),
    "huber-norm": LossConfig(**NO_WEIGHTED, function="huber", huber_delta=(0.5, 0.3, 0.2), force_norm=True),
}


@cache
def loaded(case: str) -> Potential:
    return load_potential(DATA / "parity" / f"{case}.pt", str(STORED[f"{case}/head"])).requires_grad_(True)


def frames_of(case: str, type_map: tuple[str, ...]) -> list[Frame]:
    def row(name: str, index: int) -> np.ndarray | None:
        key = f"{case}/{name}"
        return STORED[key][index] if key in STORED.files else None

    cell = STORED[f"{case}/cell"]
    return [
        Frame(
            symbols=tuple(type_map[t] for t in STORED[f"{case}/types"]),
            positions=row("positions", index),
            cell=cell if cell.any() else None,
            pbc=(bool(cell.any()),) * 3,
            energy=float(row("energy", index)[0]),
            forces=row("forces", index),
            virial=row("virial", index).reshape(3, 3),
            atomic_energies=row("atomic_energies", index),
            force_weights=row("force_weights", index),
            fparam=row("fparam", index),
            aparam=row("aparam", index),
        )
        for index in range(2)
    ]


def directions(size: int) -> tuple[np.ndarray, np.ndarray]:
    k = np.arange(size, dtype=float)
    return np.cos(k * 1.7 + 0.3), np.sin(k * 0.9 + k**2 * 0.013)


@pytest.mark.parametrize("key", [k for k in STORED.files if k.endswith("/gradients")])
def test_loss_and_gradients_are_those_of_deepmd(key):
    """Both in float64; sums of many terms of both signs leave 1e-12 of the largest gradient."""
    case, name, _ = key.split("/")
    potential = loaded(case)
    batch = frame_set(frames_of(case, potential.type_map), potential.config).batch([0, 1])
    potential.zero_grad(set_to_none=True)
    prediction = predict(potential, batch, gradient=True, training=True)
    loss = total_loss(loss_terms(LOSSES[name], prediction, batch, RATIO))
    loss.backward()
    assert loss.item() == pytest.approx(float(STORED[f"{case}/{name}/loss"]), rel=1e-10)
    ours = {n.removeprefix("model."): p.grad for n, p in potential.named_parameters() if p.grad is not None}
    theirs = {
        our_name(str(n).removeprefix("atomic_model.")): row
        for n, row in zip(STORED[f"{case}/names"], STORED[key], strict=True)
    }
    assert ours.keys() == theirs.keys()
    largest = max(row[0] for row in theirs.values())
    for parameter, expected in theirs.items():
        gradient = ours[parameter].numpy().ravel()
        first, second = directions(gradient.size)
        found = [np.linalg.norm(gradient), gradient @ first, gradient @ second]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * largest, err_msg=parameter)


def rates() -> list:
    steps, table = json.loads(str(STORED["rates"]))
    return [
        pytest.param(steps, options, kind, values, id=f"{kind}-{n}") for n, (options, kind, values) in enumerate(table)
    ]


@pytest.mark.parametrize(("steps", "options", "kind", "values"), rates())
def test_learning_rates_are_those_of_deepmd(steps, options, kind, values):
    config = LearningRateConfig(
        schedule=kind.removeprefix("LearningRate").lower(),
        start=options["start_lr"],
        stop=options["stop_lr"],
        decay_steps=options.get("decay_steps", 5000),
        decay_rate=options.get("decay_rate"),
        smooth=options.get("smooth", False),
        decay_part=options.get("decay_phase_ratio", 0.1),
        decay=options.get("decay_type", "inverse_linear"),
        warmup=options.get("warmup_steps", 0),
        warmup_start=options.get("warmup_start_factor", 0.0),
    )
    found = [learning_rate(config, step, options["num_steps"]) for step in steps]
    assert found == pytest.approx(values, rel=1e-12)


def test_twenty_steps_are_those_of_deepmd(tmp_path):
    """DeePMD-kit's own training loop from the same weights, with the batch of all frames: Adam, clipping, schedules.

    Losses differ by rounding; Adam divides by small second moments, which leaves 1e-9 of the weights after 20 steps.
    """
    stored = np.load(DATA / "training" / "trajectory.npz")
    symbols = tuple(stored["symbols"].tolist())
    labels = (stored[name] for name in ("positions", "cell", "energy", "forces", "virial"))
    frames = [Frame(symbols, x, cell, (True,) * 3, float(e), f, w) for x, cell, e, f, w in zip(*labels, strict=True)]
    write_frames(tmp_path / "sys", frames)
    content = json.loads(str(stored["input"]))
    content["training"]["training_data"]["systems"] = [str(tmp_path / "sys")]
    trainer = make_trainer(replace(settings_of_input(content), derivatives="exact"))
    model = trainer.heads["Default"]
    model.load_state_dict({name: torch.from_numpy(stored[f"start/{name}"]) for name in model.state_dict()})
    for _, loss, energy, forces, _, rate in stored["curve"]:  # written with three digits
        assert learning_rate(trainer.config.learning_rate, trainer.step_number, 20) == pytest.approx(rate, rel=0.03)
        trainer.progress.errors["Default"] = errors = Errors()
        assert trainer.step() ** 0.5 == pytest.approx(loss, rel=6e-3)
        assert errors.rmse("energy") == pytest.approx(energy, rel=6e-3)
        assert errors.rmse("forces") == pytest.approx(forces, rel=6e-3)
    for name, tensor in model.state_dict().items():
        expected = torch.from_numpy(stored[f"last/{name}"])
        scale = expected.abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-8 * scale)


def test_an_example_of_deepmd_is_learned_as_fast():
    """Errors of both programs on held-out frames, from the same random weights; see make_learning_curves.py.

    Same batches give the same steps (above); here each has its own order of the frames. That leaves a few percent of
    the forces; energies, of little weight before the last steps, jump by factors from one checkpoint to the next.
    """
    stored = json.loads((DATA / "training" / "learning-curves.json").read_text())
    config = settings_of_input(stored["input"])
    assert (config.steps, config.learning_rate.stop) == (600, 1e-5)
    for seed, theirs in stored["curves"]["DeePMD-kit 3.2.0"].items():
        ours = stored["curves"]["dpa2_ase"][seed]
        assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [100, 200, 300, 400, 500, 600]
        assert ours[-1]["forces"] == pytest.approx(theirs[-1]["forces"], rel=0.1)
        assert ours[-1]["energy"] < 0.01 > theirs[-1]["energy"]  # eV/atom


def test_statistics_are_those_of_deepmd(tmp_path):
    """Two systems of four frames. The ridge moves the energies of atoms a little; DeePMD-kit has none."""
    stored = np.load(DATA / "training" / "trajectory.npz")
    section = json.loads(str(stored["section"]))
    for block in ("repinit", "repformer"):
        section["descriptor"][block]["set_davg_zero"] = False
    for name, symbols, shift in (("a", tuple(stored["symbols"].tolist()), 0.0), ("b", ("Cu", "Au", "Cu", "Au"), 1.0)):
        labels = zip(stored["positions"], stored["cell"], stored["energy"], strict=True)
        frames = [Frame(symbols, x, cell, (True,) * 3, float(energy) + shift) for x, cell, energy in labels]
        write_frames(tmp_path / name, frames, type_map=section["type_map"])
    data = {"training_data": {"systems": [str(tmp_path / "a"), str(tmp_path / "b")]}, "numb_steps": 1}
    found = make_trainer(settings_of_input({"model": section, "training": data})).heads["Default"].state_dict()
    for key in (key for key in stored.files if key.startswith("statistics/")):
        tensor = found[key.removeprefix("statistics/")].numpy()
        tolerance = {"atol": 0.02} if key.endswith("out_bias") else {"rtol": 1e-10, "atol": 1e-14}  # eV
        np.testing.assert_allclose(tensor, stored[key], err_msg=key, **tolerance)
