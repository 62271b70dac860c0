"""Training: laws of batches, statistics and losses, and whole trainings on EMT's labels in seconds."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from click.testing import CliRunner
from trainings import (
    ELEMENTS,
    FRAMES,
    TINY,
    assert_same_training,
    deepmd_input,
    multi_task,
    parameters,
    table,
    trainer_of,
    without_time,
)

from dpa2_ase import DPA2Calculator
from dpa2_ase.checkpoint import heads as heads_of_file
from dpa2_ase.checkpoint import load_potential
from dpa2_ase.checkpoint.errors import CheckpointError
from dpa2_ase.cli.convert import convert
from dpa2_ase.cli.train import train as train_command
from dpa2_ase.graph import neighborhood
from dpa2_ase.model import Prediction
from dpa2_ase.nn.repformer import Repformer
from dpa2_ase.nn.se_atten import SeAtten
from dpa2_ase.training.biases import fit_biases
from dpa2_ase.training.data.files import read_frames, write_frames
from dpa2_ase.training.frameset import FrameSet
from dpa2_ase.training.heads import Heads, Sharing, random_potential
from dpa2_ase.training.loss import LossConfig, Prefactor, loss_terms, total_loss
from dpa2_ase.training.metrics import Errors
from dpa2_ase.training.presets import PRESETS, preset
from dpa2_ase.training.sampling import BatchSize, Sampler, fixed_batches, parse_batch_size
from dpa2_ase.training.settings import read_settings
from dpa2_ase.training.state import read_state
from dpa2_ase.training.statistics import set_environment_statistics
from dpa2_ase.training.template import TEMPLATE
from dpa2_ase.training.trainer import predict


@pytest.fixture
def data(tmp_path):
    write_frames(tmp_path / "train.xyz", FRAMES[:9])
    write_frames(tmp_path / "valid.xyz", FRAMES[9:])
    return tmp_path


# ---- whole trainings -----------------------------------------------------------------------------------------------


def test_a_short_training_lowers_the_loss(data):
    """Sixty steps on nine frames; held-out forces improve at once, energies follow their later weight."""
    trainer = trainer_of(table(data, steps=60))
    before = trainer.validate("Default", every_frame=True)
    trainer.run(quiet=True)
    after = trainer.validate("Default", every_frame=True)
    assert after.rmse("energy") < before.rmse("energy")
    assert after.rmse("forces") < 0.3 * before.rmse("forces")
    with (data / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == list(range(2, 61, 2))
    assert float(rows[-1]["Default/loss"]) < 0.2 * float(rows[0]["Default/loss"])
    assert rows[1]["Default/valid/forces_rmse"]
    assert not rows[0]["Default/valid/forces_rmse"]


def test_the_checkpoint_is_the_trained_model(data):
    trainer = trainer_of(table(data))
    trainer.run(quiet=True)
    assert heads_of_file(data / "model.pt")["Default"].observed == ("Au", "Cu")
    frame = FRAMES[0]
    atoms = Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=True)
    atoms.calc = DPA2Calculator(data / "model.pt", device="cpu")
    batch = FrameSet([frame], ELEMENTS, trainer.heads["Default"].cutoff).batch([0])
    prediction = predict(trainer.heads["Default"], batch, gradient=True, training=False)
    assert atoms.get_potential_energy() == pytest.approx(prediction.energy.item(), abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), prediction.forces.detach().numpy(), atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [{}, {"ema": 0.9, "type": "adamw", "weight_decay": 0.01, "clip": 5.0}, {"type": "muon", "weight_decay": 0.01}],
    ids=["plain", "all", "muon"],
)
def test_restart_continues_bit_for_bit(data, options):
    settings = table(data, optimizer=options)
    whole = trainer_of(settings)
    whole.run(quiet=True)
    log = without_time(data / "log.csv")
    first = trainer_of(settings)
    first.run(quiet=True, until=4)
    second = trainer_of(settings, start="restart", model=data / "model.pt")
    assert second.step_number == 4
    second.run(quiet=True)
    assert_same_training(whole, second)
    assert without_time(data / "log.csv") == log


def test_mean_parameters_follow_their_law(data):
    trainer = trainer_of(table(data, optimizer={"ema": 0.7}))
    expected = parameters(trainer)
    for _ in range(3):
        trainer.step()
        now = parameters(trainer)
        expected = {name: 0.7 * mean + 0.3 * now[name] for name, mean in expected.items()}
    for name, mean in trainer.ema.items():
        torch.testing.assert_close(mean, expected[name], rtol=1e-13, atol=1e-13)
    before = parameters(trainer)
    with trainer.averaged():
        torch.testing.assert_close(parameters(trainer), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parameters(trainer), before, rtol=0, atol=0)
    trainer.save(data / "model.pt")
    averaged = load_potential(data / "model-ema.pt")
    name = next(iter(expected))
    torch.testing.assert_close(averaged.state_dict()[name.split(".", 2)[2]], expected[name], rtol=1e-13, atol=1e-13)


def test_numbered_copies_are_kept_up_to_a_number(data):
    settings = table(data)
    settings["output"] |= {"save_every": 2, "keep": 2}
    trainer_of(settings).run(quiet=True)
    assert sorted(p.name for p in data.glob("model*.pt")) == ["model-4.pt", "model-6.pt", "model.pt"]
    with pytest.raises(CheckpointError, match="start from it with --init-model"):
        read_state(data / "model-6.pt")


def test_init_model_takes_weights_and_statistics(data):
    first = trainer_of(table(data))
    first.run(quiet=True)
    second = trainer_of(table(data), start="init-model", model=data / "model.pt")
    assert second.step_number == 0
    for name, tensor in first.heads.state_dict().items():
        assert torch.equal(tensor, second.heads.state_dict()[name]), name


def test_finetuning_refits_the_bias(data):
    """Data of another level: what the pretrained model misses is fitted by a shift per element."""
    trainer_of(table(data, steps=10)).run(quiet=True)
    shift = {"Cu": 3.0, "Au": -20.0}
    shifted = [dataclasses.replace(f, energy=f.energy + sum(shift[s] for s in f.symbols)) for f in FRAMES]
    write_frames(data / "other.xyz", shifted)
    settings = table(data, freeze=["descriptor"])
    settings["data"] = {"train": str(data / "other.xyz"), "valid": str(data / "other.xyz")}
    pretrained = load_potential(data / "model.pt")
    trainer = trainer_of(settings, start="finetune", model=data / "model.pt", head="Default")
    change = (trainer.heads["Default"].model.out_bias - pretrained.model.out_bias)[:, 0].tolist()
    frames = FrameSet(shifted, ELEMENTS, pretrained.cutoff)
    missed = frames.batch(range(12)).labels.energy - pretrained(frames.batch(range(12)).graph)
    counts = frames.counts(range(12))
    n_atoms = counts.sum(axis=1)
    expected = fit_biases(counts / n_atoms[:, None], missed.numpy() / n_atoms)  # every structure counts the same
    assert change == pytest.approx(expected, abs=1e-9)
    assert trainer.validate("Default").rmse("energy") < 0.05 * missed.abs().mean().item()
    frozen = {n: t for n, t in trainer.heads.state_dict().items() if ".descriptor." in n}
    frozen = copy.deepcopy(frozen)
    trainer.run(quiet=True)
    for name, tensor in frozen.items():
        assert torch.equal(tensor, trainer.heads.state_dict()[name])
    assert not torch.equal(
        trainer.heads.model("Default").fitting.net[0].weight, pretrained.model.get_parameter("fitting.net.0.weight")
    )


def test_finetuning_with_a_new_fitting_net(data):
    trainer_of(table(data)).run(quiet=True)
    pretrained = load_potential(data / "model.pt")
    trainer = trainer_of(table(data), start="finetune", model=data / "model.pt", head="RANDOM")
    model = trainer.heads.model("Default")
    assert torch.equal(model.descriptor.to_node.weight, pretrained.model.get_parameter("descriptor.to_node.weight"))
    assert not torch.equal(model.fitting.net[0].weight, pretrained.model.get_parameter("fitting.net.0.weight"))
    frozen = trainer_of(table(data, freeze=["descriptor"]), start="finetune", model=data / "model.pt", head="RANDOM")
    start = parameters(frozen)
    frozen.run(quiet=True)
    for name, tensor in parameters(frozen).items():
        assert torch.equal(tensor, start[name]) == (".descriptor." in name), name
    settings = table(data, elements=["Cu", "Au", "Ag"])
    with pytest.raises(ValueError, match=r"does not know \['Ag'\]"):
        trainer_of(settings, start="finetune", model=data / "model.pt")


def test_heads_share_a_descriptor(data):
    trainer = trainer_of(multi_task(data, steps=8))
    assert trainer.heads.model("a").descriptor.repinit is trainer.heads.model("b.c").descriptor.repinit
    assert trainer.heads.model("a").fitting.net is not trainer.heads.model("b.c").fitting.net
    before = parameters(trainer)
    batch = trainer.data["a"].train.batch([0, 1])
    trainer.gradients("a", batch, 1.0)
    untouched = {n for n, p in trainer.heads.named_parameters() if p.grad is None}
    assert untouched == {n for n in before if n.startswith("potentials.1.model.fitting.")}
    trainer.run(quiet=True)
    assert set(heads_of_file(data / "model.pt")) == {"a", "b.c"}
    for name in ("a", "b.c"):
        loaded = load_potential(data / "model.pt", name).model.state_dict()
        for key, tensor in trainer.heads.model(name).state_dict().items():
            assert torch.equal(tensor, loaded[key]), key


def test_several_heads_restart_bit_for_bit(data):
    settings = multi_task(data, steps=8, optimizer={"ema": 0.9, "clip": 5.0})
    settings["heads"]["a"] |= {"train": [str(data / "train.xyz"), str(data / "valid.xyz")], "weights": [0.3, 0.7]}
    whole = trainer_of(settings)
    whole.run(quiet=True)
    first = trainer_of(settings)
    first.run(quiet=True, until=5)
    second = trainer_of(settings, start="restart", model=data / "model.pt")
    second.run(quiet=True)
    assert_same_training(whole, second)


def test_heads_are_drawn_by_probability(data):
    trainer = trainer_of(multi_task(data))
    drawn = []
    for trainer.step_number in range(400):  # the draw depends on the step
        drawn.append(trainer._draw_head())
    assert drawn.count("a") / 400 == pytest.approx(0.75, abs=0.09)  # four standard deviations


def test_finetuning_several_heads(data):
    trainer_of(multi_task(data)).run(quiet=True)
    settings = multi_task(data)
    settings["heads"] = {"new": settings["heads"]["a"] | {"finetune_head": "b.c"}, "a": settings["heads"]["a"]}
    trainer = trainer_of(settings, start="finetune", model=data / "model.pt")
    stored = load_potential(data / "model.pt", "b.c").model.state_dict()
    assert torch.equal(trainer.heads.model("new").fitting.net[0].weight, stored["fitting.net.0.weight"])
    with pytest.raises(ValueError, match="say which to start from with --head"):
        trainer_of(table(data), start="finetune", model=data / "model.pt")


def test_sharing_levels(data):
    sections = {name: random_potential(TINY, "model", seed) for seed, name in enumerate(("a", "b", "c"))}
    sharing = [Sharing("descriptor", {"a": 0, "b": 1}), Sharing("fitting_net", {"a": 0, "c": 0})]
    heads = Heads(sections, sharing)
    a, b, c = (heads.model(name) for name in "abc")
    assert a.descriptor.type_embedding is b.descriptor.type_embedding
    assert a.descriptor.repinit is not b.descriptor.repinit
    assert a.fitting.net is c.fitting.net
    assert a.fitting.bias_atom_e is not c.fitting.bias_atom_e
    other = copy.deepcopy(TINY)
    other["fitting_net"]["neuron"] = [5]
    with pytest.raises(ValueError, match="cannot share a fitting_net"):
        Heads(
            {"a": sections["a"], "d": random_potential(other, "model", 1)}, [Sharing("fitting_net", {"a": 0, "d": 0})]
        )


def test_rates_of_parts(data):
    rates = {"start": 1e-2, "parts": {"descriptor": 0.1, "descriptor.repinit": 0.0, "fitting.net.0": 0.5}}
    trainer = trainer_of(table(data, learning_rate=rates))
    before = parameters(trainer)
    trainer.step()
    moved = {name.split(".model.")[1]: (p - before[name]).abs().max().item() for name, p in parameters(trainer).items()}
    for name, distance in moved.items():  # the first step of Adam has the length of the rate in every component
        rate = 0.0 if name.startswith("descriptor.repinit") else 1e-3 if name.startswith("descriptor") else 1e-2
        rate = 5e-3 if name.startswith("fitting.net.0") else rate
        assert distance == pytest.approx(rate, rel=1e-3), name
    for changes in ({"freeze": ["descr"]}, {"learning_rate": {"parts": {"descr": 0.1}}}):
        with pytest.raises(ValueError, match=r"no parameter begins with 'descr'; parts of this model are"):
            trainer_of(table(data, **changes))
    with pytest.raises(ValueError, match="nothing is left to train"):
        trainer_of(table(data, freeze=["descriptor", "fitting"]))


def test_a_loss_that_explodes_is_an_error(data):
    trainer = trainer_of(table(data))
    trainer.heads.model("Default").fitting.net[0].weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="lower learning_rate.start"):
        trainer.step()


# ---- laws ----------------------------------------------------------------------------------------------------------


def potential_and_frames():
    potential = random_potential(TINY, "model", 0).requires_grad_(True)
    return potential, FrameSet(FRAMES, ELEMENTS, potential.cutoff)


def loss_of(potential, frames: FrameSet, indices: list[int], config: LossConfig) -> torch.Tensor:
    batch = frames.batch(indices)
    return total_loss(loss_terms(config, predict(potential, batch, gradient=True, training=True), batch, 0.5))


def test_a_batch_of_unequal_structures_is_the_mean_over_structures():
    potential, frames = potential_and_frames()
    config = LossConfig(forces=Prefactor(), virial=Prefactor(1, 1))
    single = [loss_of(potential, frames, [i], config).item() for i in range(4)]
    assert loss_of(potential, frames, [0, 1, 2, 3], config).item() == pytest.approx(np.mean(single), rel=1e-12)
    forces = LossConfig(energy=Prefactor())
    weights = [len(FRAMES[i]) for i in range(4)]
    single = [loss_of(potential, frames, [i], forces).item() for i in range(4)]
    expected = np.average(single, weights=weights)  # over atoms
    assert loss_of(potential, frames, [0, 1, 2, 3], forces).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_of_the_loss_are_its_finite_differences():
    """Central differences with step 1e-5 of a loss of order 100 leave about 1e-7."""
    potential, frames = potential_and_frames()
    config = LossConfig(virial=Prefactor(1, 1))
    loss_of(potential, frames, [0, 2], config).backward()
    chosen = dict(potential.named_parameters())
    for name in (
        "model.descriptor.repinit.features.net.0.weight",
        "model.descriptor.to_node.weight",
        "model.fitting.net.1.weight",
    ):
        parameter, gradient = chosen[name], chosen[name].grad.flatten()[3].item()
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.view(-1)[3] += step
            values.append(loss_of(potential, frames, [0, 2], config).item())
            with torch.no_grad():
                parameter.view(-1)[3] -= step
        numeric = (values[0] - values[1]) / 2e-5
        assert gradient == pytest.approx(numeric, rel=1e-5), name


def test_unknown_labels_count_for_nothing():
    potential, frames = potential_and_frames()
    bare = [dataclasses.replace(f, energy=None, forces=None, virial=None) for f in FRAMES]
    mixed = FrameSet([FRAMES[0], bare[1]], ELEMENTS, potential.cutoff)
    config = LossConfig(virial=Prefactor(1, 1))
    together, alone = loss_of(potential, mixed, [0, 1], config), loss_of(potential, frames, [0], config)
    assert together.item() == pytest.approx(alone.item(), rel=1e-12)
    together.backward()
    assert all(p.grad.isfinite().all() for p in potential.parameters() if p.grad is not None)
    prediction = Prediction(energy=torch.zeros(2), forces=torch.zeros(8, 3))
    errors = Errors()
    errors.add(prediction, mixed.batch([0, 1]))
    assert errors.counts == {"energy": 1, "forces": 12}
    assert errors.mae("energy") == pytest.approx(abs(FRAMES[0].energy) / 4)


def test_statistics_normalize_the_environment():
    """Over all slots, empty ones as zeros, rows have unit spread; written out with dense arrays."""
    heads = Heads({"Default": random_potential(TINY, "model", 0)})
    frames = FrameSet(FRAMES, ELEMENTS, heads["Default"].cutoff)
    set_environment_statistics(heads, {"Default": frames}, {"Default": 1.0}, {SeAtten: False, Repformer: True}, 0)
    graph = frames.batch(range(len(FRAMES))).graph
    for block, nsel in (
        (heads.model("Default").descriptor.repinit, 60),
        (heads.model("Default").descriptor.repformer, 20),
    ):
        hood = neighborhood(graph, block.config.rcut, nsel, block.excluded)
        rows = block.environment(hood.graph).env * block.environment.std[graph.types[hood.graph.center]]
        rows = rows + block.environment.mean[graph.types[hood.graph.center]]
        for kind in range(2):
            atoms = torch.nonzero(graph.types == kind).squeeze(-1)
            dense = torch.zeros(len(atoms), nsel, 4, dtype=torch.float64)
            for number, atom in enumerate(atoms):
                found = rows[hood.graph.center == atom]
                dense[number, : len(found)] = found
            radial, angular = dense[..., 0], dense[..., 1:]
            expected = [radial.std(correction=0), *[angular.std(correction=0)] * 3]
            torch.testing.assert_close(block.environment.std[kind], torch.stack(expected), rtol=1e-10, atol=0)
            mean = radial.mean() if isinstance(block, SeAtten) else torch.zeros((), dtype=torch.float64)
            torch.testing.assert_close(block.environment.mean[kind, 0], mean, rtol=1e-10, atol=1e-15)
            assert not block.environment.mean[kind, 1:].any()


def test_biases_are_the_energies_of_atoms():
    counts = np.array([[3, 1, 0], [2, 2, 0], [1, 5, 0]], dtype=float)
    assert fit_biases(counts, counts @ [-3.0, 7.0, 0.0]) == pytest.approx([-3.0, 7.0, 0.0])
    assert fit_biases(np.array([[1.0, 2.0]]), np.array([-10.0])) == pytest.approx([-2.0, -4.0])  # smallest norm
    water = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]])
    assert fit_biases(water, np.array([-9.0, -18.0]), around_mean=True) == pytest.approx([-3.0, -3.0, 0.0])


@pytest.mark.parametrize("text", ["4", "auto", "auto:7", "max:9", "mix:9", "mixed:3"])
def test_every_frame_comes_once_in_an_epoch(text):
    sizes = [4, 3, 8, 2, 5, 4, 4]
    size = parse_batch_size(int(text) if text.isdigit() else text)
    sampler = Sampler(sizes, size, seed=5)
    drawn: list[int] = []
    while len(drawn) < 70:
        batch = next(sampler)
        drawn += batch
        atoms = [sizes[i] for i in batch]
        if size.kind == "auto":
            assert sum(atoms) >= size.size > sum(atoms[:-1])
        elif size.kind == "max":
            assert sum(atoms) <= size.size or len(batch) == 1
        else:
            assert len(batch) == size.size
    for epoch in range(10):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert drawn[:7] != drawn[7:14]
    once = fixed_batches(sizes, size, seed=1, count=None)
    assert sorted(i for batch in once for i in batch) == list(range(7))


def test_sampler_continues_where_it_was():
    first, second = (Sampler([3] * 10, BatchSize("frames", 4), seed=1, weights=np.arange(10)) for _ in range(2))
    for _ in range(7):
        next(first)
    second.restore(first.state)
    assert [next(first) for _ in range(9)] == [next(second) for _ in range(9)]
    assert all(0 not in next(first) for _ in range(20))  # probability zero


@pytest.mark.parametrize("value", [0, -3, "auto:x", "many", "max", 2.5, True])
def test_batch_sizes_that_make_no_sense(value):
    with pytest.raises(ValueError, match="data.batch"):
        parse_batch_size(value, "data.batch")


# ---- several processes ---------------------------------------------------------------------------------------------


def test_two_processes_have_the_gradient_of_the_double_batch(data):
    """`torchrun` with two processes and batches of one against one process and batches of two, heads drawn alike."""
    settings = multi_task(data, steps=4)
    for head in settings["heads"].values():
        head["batch"] = 2
    trainer = trainer_of(settings)
    trainer.run(quiet=True)
    for head in settings["heads"].values():
        head["batch"] = 1
    settings["output"] |= {"checkpoint": str(data / "two.pt"), "log": str(data / "two.csv")}
    (data / "two.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "dpa2_ase.train", str(data / "two.yaml"), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written") == 1  # by the first process alone
    for name in ("a", "b.c"):
        expected = trainer.heads.model(name).state_dict()
        for key, tensor in load_potential(data / "two.pt", name).model.state_dict().items():
            # sums in another order, divided by tiny second moments of Adam
            torch.testing.assert_close(tensor, expected[key], rtol=1e-7, atol=1e-9)


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 5}, "stepz is not a known key; did you mean steps?"),
        ({"loss": {"force": 1}}, "loss.force is not a known key; did you mean forces?"),
        ({"learning_rate": {"schedule": "linear"}}, "learning_rate.schedule should be one of exp, cosine, wsd"),
        ({"steps": "many"}, "steps should be an integer, found 'many'"),
        ({"epochs": 3}, "steps and epochs exclude each other; remove one"),
        ({"model": "huge"}, "model 'huge' is not one of tiny, small, medium, large"),
        ({"data": {"batch": 2}}, "data.train is missing"),
        ({"data": {"train": "x", "batch": "auto:x"}}, "data.batch 'auto:x'"),
        ({"heads": {"a": {"train": "x"}}}, "either data"),
        ({"optimizer": {"clip": "no"}}, "optimizer.clip should be a number"),
        ({"loss": {"energy": [1, 2, 3]}}, r"loss.energy should be a number or \[start, limit\]"),
    ],
)
def test_settings_are_refused_by_path(tmp_path, change, message):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(table(tmp_path, **change)))
    with pytest.raises(ValueError, match=f"x.yaml: {message}"):
        read_settings(tmp_path / "x.yaml")


def test_the_template_is_valid(tmp_path):
    (tmp_path / "x.yaml").write_text(TEMPLATE)
    (tmp_path / "path/to").mkdir(parents=True)
    write_frames(tmp_path / "path/to/train.xyz", FRAMES[:2])
    config = read_settings(tmp_path / "x.yaml")
    assert config.heads["Default"].model["type_map"] == ["Cu", "Au"]  # by atomic number
    assert config.steps == 100000
    assert config.heads["Default"].data.train == (str(tmp_path / "path/to/train.xyz"),)
    assert config.optimizer.ema == 0.999


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_models(name):
    with torch.device("meta"):
        assert random_potential(preset(name, ["O", "H"], "float32"), "model", 0).type_map == ("O", "H")


@pytest.mark.parametrize("text", ["1e-05", "1E-5", "+.1e-4", "10.e-6"])
def test_numbers_in_settings_are_those_of_json(tmp_path, text):
    """YAML 1.1 takes a number without a point for text; tabs, which it refuses, are in many an input.json."""
    path = tmp_path / "x.json"
    path.write_text(f"model: {{descriptor: {{ln_eps: {text}}}}}\nelements: [Cu]\ndata: {{train: x}}\n")
    assert read_settings(path).heads["Default"].model["descriptor"]["ln_eps"] == 1e-5
    content = deepmd_input(tmp_path)
    content["model"]["descriptor"]["ln_eps"] = 1e-5
    path.write_text(json.dumps(content, indent="\t"))
    assert read_settings(path).heads["Default"].model["descriptor"]["ln_eps"] == 1e-5
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="x.json is neither YAML nor JSON"):
        read_settings(path)


# ---- commands ------------------------------------------------------------------------------------------------------


def test_commands(data):
    runner = CliRunner()
    settings = data / "x.yaml"
    assert runner.invoke(train_command, ["init", str(settings)]).exit_code == 0
    assert settings.read_text() == TEMPLATE
    settings.write_text(yaml.safe_dump(table(data, steps=2)))
    result = runner.invoke(train_command, [str(settings)], catch_exceptions=False)
    assert "step 2" in result.output
    settings.write_text(yaml.safe_dump(table(data, steps=3)))
    result = runner.invoke(train_command, [str(settings), "--restart", str(data / "model.pt")], catch_exceptions=False)
    assert "step 3" in result.output
    assert "step 2" not in result.output
    result = runner.invoke(train_command, [str(settings), "--restart", "a", "--finetune", "b"])
    assert isinstance(result.exception, ValueError)
    result = runner.invoke(convert, [str(data / "train.xyz"), str(data / "sys"), "--check"], catch_exceptions=False)
    assert "(9 frames)" in result.output
    assert len(read_frames(data / "sys")) == 9


def test_the_benchmark_runs(data, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    import training_step

    arguments = ["training_step.py", str(data / "train.xyz"), "--model", "tiny", "--repeats", "1", "--frames", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    training_step.main()
    cases = re.findall(r"^(float\d\d) 8 atoms, (\w+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert cases == [(precision, kind) for precision in ("float64", "float32") for kind in ("exact", "auto")]


def test_tensorboard_is_optional(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    settings = table(data)
    settings["output"]["tensorboard"] = str(data / "board")
    with pytest.raises(ModuleNotFoundError, match="pip install 'dpa2-ase\\[train\\]'"):
        trainer_of(settings).run(quiet=True)


def test_broken_frames_are_left_out_and_told(data, caplog):
    frames = [*FRAMES[:3], dataclasses.replace(FRAMES[3], energy=math.nan)]
    write_frames(data / "broken", frames)
    settings = table(data)
    settings["data"] = {"train": str(data / "broken")}
    trainer = trainer_of(settings)
    assert len(trainer.data["Default"].train) == 3
    assert "not-finite: 1" in caplog.text
    largest = [np.linalg.norm(f.forces, axis=1).max() for f in FRAMES]
    strict = table(data)
    strict["data"] |= {"filter": ["large-force"], "limits": {"force": float(np.median(largest[:9]))}}
    assert len(trainer_of(strict).data["Default"].train) == 5
    strict["data"]["filter"] = ["large-forces"]
    with pytest.raises(ValueError, match=r"data.filter\[0\] should be one of shape"):
        trainer_of(strict)
    settings["elements"] = ["Cu"]
    with pytest.raises(ValueError, match=r"Au are not in the type map \['Cu'\]"):
        trainer_of(settings)
