"""DeePMD-kit's ``input.json`` as it is: what it means here, and what is refused by its path."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from trainings import FRAMES, TINY, deepmd_input, emt_frame, table, trainer_of

from dpa2_ase.checkpoint import heads as heads_of_file
from dpa2_ase.checkpoint import load_potential
from dpa2_ase.parsing import parse_model
from dpa2_ase.training.configuration import TrainingConfig
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.data.frames import frame_of_atoms
from dpa2_ase.training.deepmd_input import settings_of_input
from dpa2_ase.training.heads import Sharing
from dpa2_ase.training.loss import Prefactor
from dpa2_ase.training.neighbor_counts import AutoLength
from dpa2_ase.training.run import make_trainer, train
from dpa2_ase.training.sampling import BatchSize
from dpa2_ase.training.schedules import learning_rate
from dpa2_ase.training.settings import read_settings, settings_of_table
from dpa2_ase.training.statistics import change_energy_bias, energy_bias


def test_input_of_deepmd_trains(tmp_path):
    write_frames(tmp_path / "sys", FRAMES)
    (tmp_path / "input.json").write_text(json.dumps(deepmd_input(tmp_path)))
    config = read_settings(tmp_path / "input.json")
    assert config.learning_rate.stop == 3.51e-08
    assert config.heads["Default"].data.batch == BatchSize("auto", 8)
    assert config.heads["Default"].loss.forces == Prefactor(1000, 1)
    assert not config.heads["Default"].loss.virial.is_used
    trainer = train(tmp_path / "input.json", quiet=True)
    assert trainer.step_number == 4
    assert (tmp_path / "model.ckpt.pt").exists()


def test_multi_task_input_of_deepmd(tmp_path):
    write_frames(tmp_path / "sys", FRAMES)
    single = deepmd_input(tmp_path)
    data = {key: single["training"].pop(key) for key in ("training_data", "validation_data")}
    shared = {"types": TINY["type_map"], "dpa2": TINY["descriptor"]}
    head = {"type_map": "types", "descriptor": "dpa2", "fitting_net": TINY["fitting_net"]}
    loss = single.pop("loss")
    multi = single | {
        "model": {"shared_dict": shared, "model_dict": {"water_1": head, "water_2": head}},
        "loss_dict": {"water_1": loss, "water_2": loss},
    }
    multi["training"] |= {
        "model_prob": {"water_1": 0.5, "water_2": 1.5},
        "data_dict": {"water_1": data, "water_2": data},
    }
    (tmp_path / "input.json").write_text(json.dumps(multi))
    config = read_settings(tmp_path / "input.json")
    assert config.probabilities == {"water_1": 0.25, "water_2": 0.75}
    assert config.sharing == (Sharing("descriptor", {"water_1": 0, "water_2": 0}),)
    trainer = train(tmp_path / "input.json", quiet=True)
    assert set(heads_of_file(tmp_path / "model.ckpt.pt")) == {"water_1", "water_2"}
    assert trainer.heads.model("water_1").descriptor.repformer is trainer.heads.model("water_2").descriptor.repformer


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.numb_step_s", 3, "training.numb_step_s is not supported; did you mean num"),
        ("training.numb_steps", "many", "training.numb_steps should be an integer from .* found 'many'"),
        ("training.save_freq", 0, "output.save_every should be at least 1, found 0"),
        ("learning_rate.start_lr", "1e-3", "learning_rate.start_lr should be a number, found '1e-3'"),
        ("loss.start_pref_e", [1], r"loss.start_pref_e should be a number, found \[1\]"),
        ("training.mixed_precision", {}, "training.mixed_precision is not supported"),
        ("loss.start_pref_h", 1.0, "loss.start_pref_h = 1.0 is not supported"),
        ("loss.type", "dos", "loss.type = 'dos' is not supported"),
        ("learning_rate.type", "step", "learning_rate.type 'step' is not supported"),
        ("optimizer", {"type": "LKF"}, "optimizer.type 'LKF' is not supported"),
        ("model.preset_out_bias", {"energy": [1]}, "model.preset_out_bias should be {energy: .* for each of"),
        ("model.fitting_net.type", "dipole", "only energies can be trained so far"),
        ("model.descriptor.repinit.nsell", 3, "model.descriptor.repinit.nsell is not a known key; did you mean nsel"),
        ("training.training_data.auto_prob", "prob_x", "training.training_data.auto_prob 'prob_x' is not supported"),
        ("nvnmd", {}, "nvnmd is not supported"),
        ("validating", {"full_validation_": True}, "validating.full_validation_ is not supported; did you mean full_"),
        ("training.acc_freq", 4, "training.acc_freq = 4 is not supported; remove it or set it to 1"),
        (
            "optimizer",
            {"type": "HybridMuon", "momentum": 0.9},
            "this package's own optimizer for matrices",
        ),
        (
            "learning_rate.stop_lr_ratio",
            0.1,
            "stop_lr and learning_rate.stop_lr_ratio exclude",
        ),
        ("training.num_epoch", 3, "training.num_epoch and training.numb_steps exclude each other; remove one"),
        ("training.model_prob", {"a": 1}, "training.model_prob belongs to a multi-task model"),
        (
            "model.type",
            "linear_ener",
            "model.type 'linear_ener': sums with pair tables or other models",
        ),
        ("model.typo_map", ["Cu"], "model.typo_map is not supported; did you mean type_map"),
        (
            "model.descriptor.repformer.trainable_ln",
            False,
            "repformer.trainable_ln = False is not supported; remove it",
        ),
        ("model.fitting_net.layer_name", ["a", None, "b"], "model.fitting_net.layer_name: layers cannot be shared one"),
        (
            "model.descriptor.repinit.nsel",
            20,
            "model.descriptor.repinit.nsel is 20 and that of repformer 20: DeePMD-kit",
        ),
        ("model.use_srtab", "x.txt", "model.use_srtab 'x.txt': sums with pair tables"),
        ("model.descriptor.type", "dpa3", "model.descriptor.type 'dpa3' is not supported; this package reads DPA-1"),
    ],
)
def test_input_of_deepmd_is_refused_by_path(tmp_path, path, value, message):
    content = deepmd_input(tmp_path)
    write_frames(tmp_path / "sys", FRAMES[:3])
    *parents, key = path.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[key] = value
    (tmp_path / "input.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        make_trainer(read_settings(tmp_path / "input.json"))


def multi_task_input(folder: Path) -> dict:
    """Two heads that share a descriptor, one of them with two systems."""
    content = deepmd_input(folder)
    data = {key: content["training"].pop(key) for key in ("training_data", "validation_data")}
    tiny = copy.deepcopy(TINY)
    section = {"type_map": "types", "descriptor": "dpa2", "fitting_net": tiny["fitting_net"]}
    content["model"] = {
        "shared_dict": {"types": tiny["type_map"], "dpa2": tiny["descriptor"]},
        "model_dict": {"a": section, "b": copy.deepcopy(section)},
    }
    content["loss_dict"] = dict.fromkeys("ab", content.pop("loss"))
    content["training"]["data_dict"] = {"a": {"stat_file": "s", **copy.deepcopy(data)}, "b": data}
    content["training"]["data_dict"]["b"]["training_data"]["systems"] *= 2
    return content


def test_probabilities_of_heads_that_are_not_given(tmp_path):
    """The number of systems, as in DeePMD-kit; a head that is forgotten is no head of probability zero."""
    content = multi_task_input(tmp_path)
    assert settings_of_input(content).probabilities == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    content["training"]["model_prob"] = {"a": 0.5}
    with pytest.raises(ValueError, match="training.model_prob.b is missing; 0 leaves a head out"):
        settings_of_input(content)
    content["training"]["model_prob"]["b"] = 0
    assert set(settings_of_input(content).heads) == {"a"}
    write_frames(tmp_path / "sys", FRAMES[:3])
    assert make_trainer(settings_of_input(content)).heads.names == ("a",)
    content["training"]["data_dict"]["a"]["trainig_data"] = {}
    with pytest.raises(ValueError, match=r"training.data_dict.a.trainig_data is not supported; did you mean training_"):
        settings_of_input(content)


def test_models_are_refused_by_their_path(tmp_path):
    content = multi_task_input(tmp_path)
    content["model"]["model_dict"]["b"]["fitting_net"] = {"neurons": [3]}
    with pytest.raises(ValueError, match=r"^model.model_dict.b.fitting_net.neurons is not a known key"):
        make_trainer(settings_of_input(content))


def test_defaults_are_those_of_inputs():
    """DeePMD-kit's input has other defaults than its classes, which files of models rely on."""
    sizes = {"rcut": 6.0, "rcut_smth": 0.5, "sel": 50}
    data = {"training_data": {"systems": ["x"]}, "numb_steps": 1, "save_dir": None, "_comment3": "anything"}
    for kind, smooth in (("dpa1", False), ("se_atten", False), ("se_atten_v2", True)):
        section = {"type_map": ["H"], "descriptor": {"type": kind, "_comment1": "x"} | sizes, "fitting_net": {}}
        completed = settings_of_input({"model": section, "training": data}).heads["Default"].model
        assert completed["descriptor"].get("set_davg_zero", True) is (kind != "se_atten_v2")
        model = parse_model(completed)
        assert (model.descriptor.neuron, model.descriptor.axis_neuron) == ((10, 20, 40), 4)
        assert model.descriptor.smooth_type_embedding is smooth
        assert model.fitting_net.neuron == (120, 120, 120)
    section["descriptor"] |= {"n_axis_neuron": 7, "neuron": [9]}
    model = parse_model(settings_of_input({"model": section, "training": data}).heads["Default"].model)
    assert (model.descriptor.neuron, model.descriptor.axis_neuron) == ((9,), 7)


def test_probabilities_of_systems(tmp_path):
    for name, count in (("a", 2), ("b", 6)):
        write_frames(tmp_path / name, [emt_frame(seed) for seed in range(count)])
    content = deepmd_input(tmp_path)
    training = content["training"]["training_data"]
    training["systems"] = [str(tmp_path / "a"), str(tmp_path / "b")]
    del content["training"]["validation_data"]
    for style, expected in (
        ("prob_sys_size", None),
        ("prob_uniform", [1 / 2] * 2 + [1 / 6] * 6),
        ("prob_sys_size;0:1:0.9;1:2:0.1", [0.45] * 2 + [0.1 / 6] * 6),
    ):
        training["auto_prob"] = style
        (tmp_path / "input.json").write_text(json.dumps(content))
        weights = make_trainer(read_settings(tmp_path / "input.json")).data["Default"].weights
        assert expected is None if weights is None else weights == pytest.approx(expected)


def test_parameters_of_frames_reach_the_model(tmp_path):
    """Energies that depend on a parameter of the frame alone; without it they cannot be told apart."""
    rng = np.random.default_rng(0)
    frames = [dataclasses.replace(FRAMES[0], fparam=rng.normal(size=2)) for _ in range(8)]
    frames = [dataclasses.replace(f, energy=f.energy + 3 * f.fparam[0], forces=None, virial=None) for f in frames]
    write_frames(tmp_path / "sys", frames)
    content = deepmd_input(tmp_path)
    content["model"]["fitting_net"]["numb_fparam"] = 2
    content["training"] |= {"numb_steps": 60, "disp_freq": 100}
    content["training"]["training_data"]["batch_size"] = 8
    content["learning_rate"] |= {"start_lr": 0.02, "decay_steps": 10, "stop_lr": 1e-3}
    content["loss"] |= {"start_pref_e": 1.0, "start_pref_f": 0.0, "limit_pref_f": 0.0}
    (tmp_path / "input.json").write_text(json.dumps(content))
    trainer = make_trainer(read_settings(tmp_path / "input.json"))
    fitting = trainer.heads.model("Default").fitting
    assert fitting.fparam_avg.tolist() == pytest.approx(np.mean([f.fparam for f in frames], axis=0).tolist())
    before = trainer.validate("Default").rmse("energy")
    trainer.run(quiet=True)
    assert trainer.validate("Default").rmse("energy") < 0.2 * before
    write_frames(tmp_path / "bare", FRAMES[:2])
    content["training"]["training_data"]["systems"] = [str(tmp_path / "bare")]
    (tmp_path / "input.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="frame 0 has none of the 2 numbers of fparam the model takes"):
        make_trainer(read_settings(tmp_path / "input.json"))


# ---- what follows from the data --------------------------------------------------------------------------------------


def changed(content: dict, **values: object) -> dict:
    """An input with other values: ``training__numb_steps=None`` removes an entry."""
    for path, value in values.items():
        *parents, key = path.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value
    return content


@pytest.mark.parametrize(
    ("count", "factor", "length"),
    [(39, 1.0, 40), (39, 1.1, 44), (39, 1.25, 48), (13, 1.05, 16), (13, 1.35, 20), (13, 1.5, 20), (13, 2, 28)],
)
def test_lengths_of_lists_are_those_of_deepmd(count, factor, length):
    """Found by DeePMD-kit 3.2 for systems with so many neighbors."""
    assert AutoLength("", "sel", "rcut", factor).length(count) == length


def fcc(folder: Path, lattice_constant: float, *sizes: int) -> None:
    """A perfect crystal: 12 neighbors at a/sqrt(2), 6 at a, 24 at a sqrt(3/2)."""
    frames = []
    for size in sizes:
        atoms = bulk("Cu", a=lattice_constant, cubic=True) * (size, 1, 1)
        atoms.calc = SinglePointCalculator(atoms, energy=-3.5 * len(atoms), forces=np.zeros((len(atoms), 3)))
        frames.append(frame_of_atoms(atoms))
    write_frames(folder, frames)


def test_lists_as_long_as_the_data_asks_for(tmp_path):
    fcc(tmp_path / "sys", 3.6, 1)
    content = deepmd_input(tmp_path)
    descriptor = content["model"]["descriptor"]
    descriptor["repinit"] |= {"nsel": "auto", "three_body_sel": "auto:1.0"}  # cutoffs 4.5, 3.2
    descriptor["repformer"]["nsel"] = "auto:1.5"  # 3.2
    trainer = make_trainer(settings_of_input(content))
    found = trainer.heads.config("Default").descriptor
    assert (found.repinit.nsel, found.repinit.three_body_sel, found.repformer.nsel) == (48, 12, 20)
    trainer.save(tmp_path / "model.pt")
    restarted = make_trainer(settings_of_input(content), start="restart", model=tmp_path / "model.pt")
    assert restarted.heads.config("Default").descriptor == found
    content["model"]["descriptor"] = {"type": "dpa1", "rcut": 4.0, "neuron": [4], "axis_neuron": 2, "attn_layer": 0}
    assert make_trainer(settings_of_input(content)).heads.config("Default").descriptor.sel == 20  # auto is the default


def test_heads_with_one_descriptor_have_lists_for_the_largest(tmp_path):
    content = multi_task_input(tmp_path)
    fcc(tmp_path / "sys", 3.6, 1)
    fcc(tmp_path / "dense", 3.0, 1)  # also 24 neighbors at 3.67 Å, 12 at 4.24 Å
    content["model"]["shared_dict"]["dpa2"]["repinit"]["nsel"] = "auto:1.0"
    content["training"]["data_dict"]["b"]["training_data"]["systems"] = [str(tmp_path / "dense")]
    heads = make_trainer(settings_of_input(content)).heads
    assert heads.config("a").descriptor.nsel == heads.config("b").descriptor.nsel == 56  # 54 neighbors


@pytest.mark.parametrize("value", ["aut", "auto:x", "auto:0.5", "auto:nan", "40"])
def test_lengths_that_make_no_sense(tmp_path, value):
    content = deepmd_input(tmp_path)
    content["model"]["descriptor"]["repformer"]["nsel"] = value
    with pytest.raises(ValueError, match=f"^model.descriptor.repformer.nsel '{value}' is not a number of neighbors"):
        settings_of_input(content)


@pytest.fixture
def three_systems(tmp_path):
    """Five and seven frames of four atoms, and four frames of eight."""
    fcc(tmp_path / "a", 3.6, *[1] * 5)
    fcc(tmp_path / "b", 3.6, *[1] * 7)
    fcc(tmp_path / "c", 3.6, *[2] * 4)
    content = deepmd_input(tmp_path)
    content["training"]["training_data"] = {"systems": [str(tmp_path / name) for name in "abc"]}
    del content["training"]["validation_data"], content["training"]["numb_steps"]
    return content


@pytest.mark.parametrize(
    ("key", "epochs", "data", "steps"),
    [
        ("numb_epoch", 2.5, {"batch_size": 2}, 23),
        ("num_epochs", 3, {"batch_size": "auto:10"}, 21),
        ("num_epoch", 1.5, {"batch_size": 1, "auto_prob": "prob_uniform"}, 32),
        ("numb_epochs", 2, {"batch_size": 2, "sys_probs": [0.5, 0.25, 0.25]}, 32),
        ("num_epoch", 2, {"batch_size": 2, "auto_prob": "prob_sys_size;0:1:0.5;1:3:0.5"}, 24),
        ("num_epoch", 2, {"batch_size": "max:9"}, 22),
        ("num_epoch", 2, {"batch_size": "filter:6"}, 24),
    ],
)
def test_epochs_have_the_steps_of_deepmd(three_systems, key, epochs, data, steps):
    """DeePMD-kit 3.2 told so for three systems of these sizes."""
    three_systems["training"][key] = epochs
    three_systems["training"]["training_data"] |= data
    assert make_trainer(settings_of_input(three_systems)).config.steps == steps


def test_epochs_of_our_own_settings(tmp_path):
    """Nine frames, two in a batch: five steps see all of them."""
    write_frames(tmp_path / "train.xyz", FRAMES[:9])
    settings = table(tmp_path, epochs=1.5)
    del settings["steps"], settings["data"]["valid"]
    settings["data"]["batch"] = 2
    trainer = trainer_of(settings)
    assert trainer.config.steps == 8
    for change, message in (({"epochs": 0}, "should be above zero"), ({"heads": {"a": settings["data"]}}, "one head")):
        with pytest.raises(ValueError, match=message):
            settings_of_table({k: v for k, v in settings.items() if k != "data" or "heads" not in change} | change)


def test_epochs_of_heads(tmp_path):
    """Steps and probabilities as DeePMD-kit 3.2 told them for heads of 3 and 11 batches."""
    fcc(tmp_path / "a", 3.6, *[1] * 5)
    fcc(tmp_path / "b", 3.6, *[1] * 7)
    fcc(tmp_path / "c", 3.6, *[2] * 4)
    content = changed(multi_task_input(tmp_path), training__numb_steps=None)
    content["training"]["num_epoch_dict"] = {"a": 2, "b": 1.3}
    data = content["training"]["data_dict"]
    data["a"] = {"training_data": {"systems": [str(tmp_path / "a")], "batch_size": 2}}
    data["b"] = {"training_data": {"systems": [str(tmp_path / "b"), str(tmp_path / "c")], "batch_size": 1}}
    config = make_trainer(settings_of_input(content)).config
    assert config.steps == 21
    assert config.probabilities == pytest.approx({"a": 6 / 20.3, "b": 14.3 / 20.3})
    for message, change in (
        (r"num_epoch_dict should have one number for each of the heads \['a', 'b'\]", {"num_epoch_dict": {"a": 1}}),
        ("num_epoch belongs to a training of one head; give training.num_epoch_dict", {"num_epoch": 1}),
        ("num_epoch_dict and training.model_prob exclude each other", {"model_prob": {"a": 1, "b": 1}}),
        ("num_epoch_dict and training.numb_steps exclude each other", {"numb_steps": 3}),
        ("num_epoch_dict should be above zero", {"num_epoch_dict": {"a": 1, "b": 0}}),
    ):
        with pytest.raises(ValueError, match=f"^training.{message}"):
            settings_of_input(content | {"training": content["training"] | change})


def test_warm_up_is_a_part_of_the_epochs(three_systems):
    three_systems["training"] |= {"num_epoch": 2}
    three_systems["training"]["training_data"]["batch_size"] = 2
    three_systems["learning_rate"] |= {"warmup_ratio": 0.2}
    config = make_trainer(settings_of_input(three_systems)).config
    rates = [learning_rate(config.learning_rate, step, config.steps) for step in range(config.steps)]
    assert config.steps == 18
    assert rates.index(max(rates)) == 3  # int(0.2 * 18)


# ---- frames ----------------------------------------------------------------------------------------------------------


def test_systems_that_are_too_large_are_left_out(three_systems, caplog):
    three_systems["training"] |= {"numb_steps": 1}
    three_systems["training"]["training_data"] |= {"batch_size": "filter:6"}
    three_systems["training"]["validation_data"] = dict(three_systems["training"]["training_data"])
    data = make_trainer(settings_of_input(three_systems)).data["Default"]
    assert set(data.train.n_atoms) == set(data.valid.n_atoms) == {4}
    assert (len(data.train), len(data.valid)) == (12, 12)
    assert "training.training_data: 4 of 16 frames have more than 6 atoms and are left out" in caplog.text
    three_systems["training"]["training_data"] |= {"batch_size": "filter:3"}
    with pytest.raises(ValueError, match="^training.training_data: no frame is left to train on"):
        make_trainer(settings_of_input(three_systems))


def test_collisions_are_left_out(tmp_path, caplog):
    fcc(tmp_path / "sys", 3.6, 1)
    fcc(tmp_path / "near", 3.0, 1)
    content = deepmd_input(tmp_path)
    content["training"]["training_data"] |= {"systems": str(tmp_path), "min_pair_dist": 2.3}
    assert len(make_trainer(settings_of_input(content)).data["Default"].train) == 1
    assert "1 of 2 frames have atoms closer than 2.3 Å" in caplog.text


def test_patterns_of_systems(tmp_path):
    for name in ("x/Cu1/s", "x/Cu2/s", "y/Au1/s"):
        (tmp_path / name).parent.mkdir(parents=True)
        fcc(tmp_path / name, 3.6, 1)
    content = deepmd_input(tmp_path)
    content["training"]["training_data"] |= {"systems": str(tmp_path), "rglob_patterns": ["Cu1/*", "Au*/*"]}
    content["training"]["validation_data"] |= {"systems": str(tmp_path / "x")}
    data = make_trainer(settings_of_input(content)).data["Default"]
    assert (len(data.train), len(data.valid)) == (2, 2)  # the patterns are those of the training data


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_learning_rates_end_where_those_of_deepmd_do(tmp_path):
    """Its default of ``stop_lr``, which the documentation does not tell: 5e-8."""
    assert settings_of_input(changed(deepmd_input(tmp_path), learning_rate__stop_lr=None)).learning_rate.stop == 5e-8


def test_layers_of_a_fitting_net_are_trained_together(tmp_path):
    for trainable, frozen in (([True] * 3, ()), ([True, False, True], ("fitting",)), (False, ("fitting",))):
        content = changed(deepmd_input(tmp_path), model__fitting_net__trainable=trainable)
        assert settings_of_input(content).freeze == frozen


def test_the_bias_is_changed_at_the_end(tmp_path):
    """As the command change-bias does with the trained model; what is stored is the model with the new bias."""
    write_frames(tmp_path / "sys", FRAMES)
    content = deepmd_input(tmp_path)
    plain = make_trainer(settings_of_input(content))
    plain.run(quiet=True)
    before = energy_bias(plain.heads["Default"])
    change_energy_bias(plain.heads["Default"], plain.data["Default"].train, plain.config.seed)
    content["training"]["change_bias_after_training"] = True
    make_trainer(settings_of_input(content)).run(quiet=True)
    stored = energy_bias(load_potential(tmp_path / "model.ckpt.pt"))
    assert stored.tolist() == energy_bias(plain.heads["Default"]).tolist() != before.tolist()


def test_other_names_of_heads_reach_the_file(tmp_path):
    content = multi_task_input(tmp_path)
    write_frames(tmp_path / "sys", FRAMES[:3])
    head = content["model"]["model_dict"]["a"]
    head |= {"model_branch_alias": ["Copper", "first"], "info": {"description": "two metals"}}
    make_trainer(settings_of_input(content)).save(tmp_path / "model.pt")
    assert heads_of_file(tmp_path / "model.pt")["a"].aliases == ("Copper", "first")
    head["model_branch_alias"] = "Copper"
    with pytest.raises(ValueError, match=r"^model.model_dict.a.model_branch_alias should be a list of names"):
        settings_of_input(content)


def test_options_of_no_matter_are_passed_over(tmp_path):
    """What changes nothing in a training by DeePMD-kit's PyTorch, or only its messages and its speed."""
    content = changed(deepmd_input(tmp_path), loss__type="ener_hess", model__data_stat_nbatch=20)
    content["training"] |= {"stat_file": "x.hdf5", "zero_stage": 0, "ckpt_keep_ratio": 0.5, "acc_freq": 1}
    content["training"]["training_data"]["set_prefix"] = "set"
    content["validating"] = {"full_validation": False, "validation_freq": 10}
    plain: TrainingConfig = settings_of_input(deepmd_input(tmp_path))
    found = settings_of_input(content)
    assert found.output.keep == 1  # half of ceil(4 / 2000)
    head = dataclasses.replace(found.heads["Default"], model=plain.heads["Default"].model)
    assert dataclasses.replace(found, output=plain.output, heads={"Default": head}) == plain
