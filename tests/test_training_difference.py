"""The fast gradient of a loss against the exact one: same loss, same batch, double backward as the reference."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from trainings import FRAMES, TINY, emt_frame, table, trainer_of

from dpa2_ase.kernels.cpu import available, trainable_tables
from dpa2_ase.kernels.training import TrainableTwin
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.difference import STEP, add_gradients, is_truncated, leaves
from dpa2_ase.training.frameset import FrameSet
from dpa2_ase.training.heads import Heads, random_potential
from dpa2_ase.training.loss import LossConfig, Prefactor, loss_terms, total_loss
from dpa2_ase.training.statistics import set_energy_bias, set_environment_statistics
from dpa2_ase.training.trainer import predict

STRIP = copy.deepcopy(TINY)
STRIP["descriptor"]["repformer"] |= {"update_g2_has_attn": True, "attn2_nhead": 2, "attn2_hidden": 4}
CONCAT = copy.deepcopy(STRIP)
STRIP["descriptor"]["repinit"] |= {"tebd_input_mode": "strip"}
VIRIAL = Prefactor(0.1, 0.1)
LOSSES = {
    "mse": LossConfig(virial=VIRIAL),
    "mae": LossConfig(virial=VIRIAL, function="mae", force_norm=True),
    "huber": LossConfig(virial=VIRIAL, function="huber", huber_delta=(0.05,)),
    "atoms": LossConfig(atomic_energies=Prefactor(1.0, 1.0)),
    "virial alone": LossConfig(energy=Prefactor(), forces=Prefactor(), virial=Prefactor(1.0, 1.0)),
    "energy alone": LossConfig(forces=Prefactor()),
}
# of the difference with nets in float64: its step squared over the square of the lengths on which forces change
FLOAT64 = 1e-6
# with nets in float32 rounding is divided by the step: some permille, far below the spread between batches
FLOAT32 = 3e-2


def prepared(precision: str = "float64", section: dict = STRIP) -> tuple[Heads, FrameSet]:
    heads = Heads({"Default": random_potential(section, "model", 1)})
    potential = heads["Default"]
    frames = FrameSet(FRAMES[:5], potential.type_map, potential.cutoff)
    set_environment_statistics(heads, {"Default": frames}, {"Default": 1.0}, {}, 0)
    set_energy_bias(potential, frames, 0)
    potential.set_precision(getattr(torch, precision)).requires_grad_(True)
    return heads, frames


def gradient(potential) -> torch.Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in potential.parameters()]
    )


def exact(potential, batch, config: LossConfig) -> torch.Tensor:
    potential.zero_grad()
    prediction = predict(potential, batch, gradient=True, training=True)
    total_loss(loss_terms(config, prediction, batch, 1.0)).backward()
    return gradient(potential).clone()


def by_difference(by_geometry, by_parameters, potential, batch, config: LossConfig, step: float) -> torch.Tensor:
    potential.zero_grad()
    prediction = leaves(predict(by_geometry, batch, gradient=True, training=False))
    total_loss(loss_terms(config, prediction, batch, 1.0)).backward()
    add_gradients(by_parameters, batch, prediction, step)
    return gradient(potential).clone()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def with_atomic_energies(batch):
    labels = replace(batch.labels, atomic_energies=torch.linspace(-1, 1, batch.graph.n_atoms, dtype=torch.float64))
    return replace(batch, labels=labels)


@pytest.mark.parametrize("name", LOSSES)
def test_difference_is_the_derivative(name):
    heads, frames = prepared()
    potential, batch = heads["Default"], with_atomic_energies(frames.batch(range(5)))
    frozen = copy.deepcopy(potential).requires_grad_(False)
    found = by_difference(frozen, potential, potential, batch, LOSSES[name], STEP[torch.float64])
    assert relative(found, exact(potential, batch, LOSSES[name])) < FLOAT64


def test_error_falls_with_the_square_of_the_step():
    heads, frames = prepared()
    potential, batch = heads["Default"], frames.batch(range(5))
    frozen = copy.deepcopy(potential).requires_grad_(False)
    wanted = exact(potential, batch, LOSSES["mse"])
    errors = [
        relative(by_difference(frozen, potential, potential, batch, LOSSES["mse"], step), wanted)
        for step in (8e-3, 4e-3, 2e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)


def test_labels_that_are_met_change_nothing():
    heads, frames = prepared()
    potential, batch = heads["Default"], frames.batch(range(5))
    frozen = copy.deepcopy(potential).requires_grad_(False)
    met = predict(frozen, batch, gradient=True, training=False)
    batch = replace(batch, labels=leaves(replace(met, atomic_energies=None)))
    batch = replace(batch, labels=replace(batch.labels, energy=met.energy.detach()))
    assert not by_difference(frozen, potential, potential, batch, LOSSES["mse"], STEP[torch.float64]).any()


@pytest.mark.parametrize("section", [STRIP, CONCAT], ids=["strip", "concat"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", FLOAT64), ("float32", FLOAT32)])
def test_trainable_twins_have_the_gradient_of_the_reference(section, precision, tolerance, monkeypatch):
    assert available()[0], "the compiled kernels are not built; install the package with a C++ compiler"
    monkeypatch.setattr(trainable_tables, "NODES_PER_ROW", dict.fromkeys(trainable_tables.NODES_PER_ROW, 1e9))
    heads, frames = prepared(precision, section)
    potential, batch = heads["Default"], frames.batch(range(5))
    twin = TrainableTwin(potential)
    assert not twin.slow
    for config in (LOSSES["mse"], LOSSES["mae"]):
        found = by_difference(twin.by_geometry, twin.by_parameters, potential, batch, config, STEP[twin.dtype])
        assert relative(found, exact(potential, batch, config)) < tolerance


def test_twins_follow_the_parameters():
    heads, frames = prepared()
    potential, batch = heads["Default"], frames.batch([0, 1])
    twin = TrainableTwin(potential)
    before = predict(twin.by_geometry, batch, gradient=True, training=False).energy
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)
    after = predict(twin.by_geometry, batch, gradient=True, training=False)
    wanted = predict(potential, batch, gradient=True, training=False)
    assert float((after.energy - before).detach().abs().min()) > 1e-3
    torch.testing.assert_close(after.forces, wanted.forces, rtol=0, atol=1e-10)
    torch.testing.assert_close(twin.by_parameters(batch.graph), wanted.energy.detach(), rtol=0, atol=1e-10)


@pytest.fixture
def data(tmp_path):
    write_frames(tmp_path / "train.xyz", FRAMES[:9])
    write_frames(tmp_path / "valid.xyz", FRAMES[9:])
    return tmp_path


def trainer(data, **changes):
    return trainer_of(table(data, model=STRIP, **changes))


def test_a_training_by_differences_is_the_exact_one(data):
    trained = {kind: trainer(data, derivatives=kind) for kind in ("exact", "difference")}
    losses = {kind: [t.step() for _ in range(6)] for kind, t in trained.items()}
    assert losses["difference"] == pytest.approx(losses["exact"], rel=1e-4)
    assert any(trained["difference"]._twins.values())
    assert not trained["exact"]._twins


def test_truncated_neighborhoods_are_differentiated_exactly(data):
    section = copy.deepcopy(STRIP)
    section["descriptor"]["repformer"] |= {"nsel": 4}
    by_difference = trainer_of(table(data, model=section, derivatives="difference"))
    exactly = trainer_of(table(data, model=section, derivatives="exact"))
    batch = by_difference.data["Default"].train.batch([0])
    assert is_truncated(by_difference.heads["Default"], batch)
    assert by_difference.step() == exactly.step()


def test_jumps_are_refused(data):
    section = copy.deepcopy(STRIP)
    section["descriptor"]["smooth"] = False
    with pytest.raises(ValueError, match="jumps where a neighbor crosses a cutoff"):
        trainer_of(table(data, model=section, derivatives="difference")).step()
    assert trainer_of(table(data, model=section)).step() > 0


def test_isolated_atoms_have_no_direction():
    heads, _ = prepared()
    potential = heads["Default"]
    frame = emt_frame(1, "Cu")
    far = replace(frame, cell=frame.cell * 5)
    batch = FrameSet([far], potential.type_map, potential.cutoff).batch([0])
    twin = TrainableTwin(potential)
    found = by_difference(twin.by_geometry, twin.by_parameters, potential, batch, LOSSES["mse"], 1e-3)
    torch.testing.assert_close(found, exact(potential, batch, LOSSES["mse"]), rtol=1e-9, atol=1e-12)
