"""A list as ``batch_size`` of DeePMD-kit's ``input.json``: batches of one system each, of the size of that system."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from trainings import assert_same_training, deepmd_input, emt_frame, without_time

from dpa2_ase.training.batches import validation_batches
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.deepmd_input import settings_of_input
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.sampling import BatchSize, SystemSampler, SystemSizes

FRAMES = {"a": 5, "b": 7, "c": 4}  # in every system
SYSTEMS = np.array([0, 1, 1, 2, 0, 1, 0, 2, 1, 2, 1, 0, 2, 1, 0, 1])  # the same numbers, in no order


@pytest.fixture
def content(tmp_path):
    """An input whose systems are the entries of a list."""
    (tmp_path / "all").mkdir()
    for number, (name, count) in enumerate(FRAMES.items()):
        frames = [emt_frame(10 * number + n, ("Cu3Au", "Cu2Au2", "Cu3")[number]) for n in range(count)]
        write_frames(tmp_path / "all" / name, frames)
    content = deepmd_input(tmp_path)
    systems = [str(tmp_path / "all" / name) for name in FRAMES]
    content["training"] |= {"training_data": {"systems": systems, "batch_size": [2, 3, 4]}, "numb_steps": 8}
    del content["training"]["validation_data"]
    return content


def sampler(*sizes: int, weights: tuple[float, ...] = (0.5, 0.2, 0.3), seed: int = 5) -> SystemSampler:
    return SystemSampler(SYSTEMS, SystemSizes(sizes), seed, np.array(weights))


# ---- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [((2, 3, 4), ((2, 2, 1), (3, 3, 1), (4,))), ((1, 7, 9), ((1,) * 5, (7,), (4,)))],
)
def test_batches_are_of_one_system_and_see_every_frame_once_in_a_pass(sizes, lengths):
    """Lengths as DeePMD-kit's: of five frames it takes 2, 2, 1, 2, 2, 1, ... for a size of two."""
    drawn: dict[int, list[list[int]]] = {0: [], 1: [], 2: []}
    stream = sampler(*sizes)
    for _ in range(200):
        batch = next(stream)
        (system,) = set(SYSTEMS[batch])
        drawn[system].append(batch)
    for system, batches in drawn.items():
        count = len(lengths[system])
        passes = [batches[start : start + count] for start in range(0, len(batches) - count + 1, count)]
        assert len(passes) > 5
        for one in passes:
            assert tuple(len(batch) for batch in one) == lengths[system]
            assert sorted(i for batch in one for i in batch) == np.flatnonzero(system == SYSTEMS).tolist()
        assert any(one != other for one, other in pairwise(passes))


def test_systems_are_drawn_with_their_probabilities():
    """To four standard deviations of a binomial distribution, which one of 16,000 counts exceeds by chance."""
    count, weights = 5000, (0.55, 0.42, 0.03)
    stream = sampler(2, 3, 4, weights=weights)
    found = Counter(int(SYSTEMS[next(stream)[0]]) for _ in range(count))
    for system, probability in enumerate(weights):
        assert abs(found[system] - count * probability) < 4 * np.sqrt(count * probability * (1 - probability))
    never = sampler(2, 3, 4, weights=(0.5, 0.0, 0.5))
    assert {int(SYSTEMS[next(never)[0]]) for _ in range(100)} == {0, 2}


def test_sampler_continues_where_it_was():
    first, second = sampler(2, 3, 1), sampler(2, 3, 1)
    for _ in range(23):
        next(first)
    assert first.state[0] == sum(first.state[1:]) == 23
    second.restore(first.state)
    expected = [next(first) for _ in range(30)]
    assert [next(second) for _ in range(30)] == expected
    second.restore((0, 0, 0, 0))
    start, other = [next(second) for _ in range(30)], sampler(2, 3, 1, seed=6)
    assert start != expected
    assert start != [next(other) for _ in range(30)]


# ---- as DeePMD-kit counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "data", "probabilities", "steps"),
    [
        (2, {"batch_size": [1, 2, 4]}, (0.5, 0.4, 0.1), 20),
        (3, {"batch_size": [2, 3, 1]}, (0.3, 0.3, 0.4), 30),
        (1.5, {"batch_size": [1, 2, 4], "auto_prob": "prob_uniform"}, (1 / 3, 1 / 3, 1 / 3), 23),
        (2, {"batch_size": [4, 1, 3], "sys_probs": [0.5, 0.25, 0.25]}, (0.5, 0.25, 0.25), 56),
        (2.5, {"batch_size": [1, 2, 4], "auto_prob": "prob_sys_size;0:1:0.3;1:3:0.7"}, (0.3, 0.56, 0.14), 43),
        (2, {"batch_size": [2, 9, 1], "auto_prob": "prob_sys_size;0:2:1.0;2:3:0.0"}, (0.75, 0.25, 0.0), 8),
    ],
)
def test_probabilities_and_epochs_are_those_of_deepmd(content, epochs, data, probabilities, steps):
    """From DeePMD-kit 3.2.0, for systems of 5, 7 and 4 frames.

    The weights of ``get_sampler_from_params(DpLoaderSet(systems, batch_size, ...), data)``, and with these and the
    loaders' lengths ``compute_total_numb_batch`` times the epochs, rounded up.
    """
    del content["training"]["numb_steps"]
    content["training"]["num_epoch"] = epochs
    content["training"]["training_data"] |= data
    trainer = make_trainer(settings_of_input(content))
    assert trainer.samplers["Default"].probabilities == pytest.approx(np.array(probabilities), rel=1e-12)
    assert trainer.config.steps == steps


# ---- data ------------------------------------------------------------------------------------------------------------


def test_systems_of_folders_take_the_numbers_in_the_order_of_their_paths(content, tmp_path):
    content["training"]["training_data"] |= {"systems": str(tmp_path / "all"), "rglob_patterns": ["c", "b", "a"]}
    trainer = make_trainer(settings_of_input(content))
    data, stream = trainer.data["Default"], trainer.samplers["Default"]
    assert np.bincount(data.systems).tolist() == [5, 7, 4]
    sizes = {system: {len(batch) for batch in batches} for system, batches in _by_system(data.systems, stream).items()}
    assert sizes == {0: {1, 2}, 1: {1, 3}, 2: {4}}


def _by_system(systems: np.ndarray, stream: SystemSampler) -> dict[int, list[list[int]]]:
    found: dict[int, list[list[int]]] = {}
    for _ in range(100):
        batch = next(stream)
        (system,) = set(systems[batch].tolist())
        found.setdefault(system, []).append(batch)
    return found


def test_a_system_without_frames_keeps_its_number(content, tmp_path):
    """All frames of the second system are left out; the third has its own size still."""
    squeezed = [emt_frame(n) for n in range(3)]
    for frame in squeezed:
        frame.positions[1] = frame.positions[0] + [0.0, 0.0, 0.4]
    write_frames(tmp_path / "near", squeezed)
    content["training"]["training_data"]["systems"][1] = str(tmp_path / "near")
    content["training"]["training_data"] |= {"min_pair_dist": 0.5, "auto_prob": "prob_uniform"}
    trainer = make_trainer(settings_of_input(content))
    found = _by_system(trainer.data["Default"].systems, trainer.samplers["Default"])
    assert {system: {len(batch) for batch in batches} for system, batches in found.items()} == {0: {1, 2}, 2: {4}}
    content["training"]["training_data"]["sys_probs"] = [0, 1, 0]
    with pytest.raises(ValueError, match=r"^training.training_data: no system with frames has a probability above"):
        make_trainer(settings_of_input(content))


def test_validation_has_batches_of_one_system(content):
    """The same ones every time, from all systems; together they are all frames."""
    train = content["training"]["training_data"]
    content["training"]["validation_data"] = {"systems": train["systems"], "batch_size": [2, 7, 3], "numb_btch": 4}
    train["batch_size"] = [2, 2, 2]
    trainer = make_trainer(settings_of_input(content))
    data, config = trainer.data["Default"], trainer.config.heads["Default"].data
    assert config.batch == BatchSize("frames", 2)
    assert config.valid_batch == SystemSizes((2, 7, 3))
    whole = validation_batches(data, config, 1, every_frame=True)
    assert sorted(i for batch in whole for i in batch) == list(range(16))
    lengths = sorted((*set(data.valid_systems[batch].tolist()), len(batch)) for batch in whole)
    assert lengths == [(0, 1), (0, 2), (0, 2), (1, 7), (2, 1), (2, 3)]
    assert validation_batches(data, config, 1) == whole[:4]
    assert trainer.validate("Default").table() == trainer.validate("Default").table() != {}


@pytest.mark.parametrize("section", ["training_data", "validation_data"])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1, 2], r".batch_size has 2 numbers for the 3 systems found"),
        ([1, 2, 3, 4], r".batch_size has 4 numbers for the 3 systems found"),
        ([], r".batch_size has 0 numbers for the 3 systems found"),
        ([1, 2, 0], r".batch_size\[2\] 0 is not a number of frames"),
        ([1, -2, 1], r".batch_size\[1\] -2 is not a number of frames"),
        ([True, 2, 1], r".batch_size\[0\] True is not a number of frames"),
        (["auto:32", 2, 1], r".batch_size\[0\] 'auto:32' is not a number of frames"),
        ([2, 2.0, 1], r".batch_size\[1\] 2.0 is not a number of frames"),
    ],
)
def test_wrong_lists_are_refused_by_path(content, tmp_path, section, sizes, message):
    content["training"][section] = {"systems": str(tmp_path / "all"), "batch_size": sizes}
    with pytest.raises(ValueError, match=f"^training.{section}{message}"):
        make_trainer(settings_of_input(content))


# ---- trainings -------------------------------------------------------------------------------------------------------


def test_a_training_restarts_bit_for_bit(content, tmp_path):
    content["training"]["validation_data"] = content["training"]["training_data"] | {"numb_btch": 2}
    whole = make_trainer(settings_of_input(content))
    whole.run(quiet=True)
    log = without_time(tmp_path / "lcurve.out")
    make_trainer(settings_of_input(content)).run(quiet=True, until=4)
    second = make_trainer(settings_of_input(content), start="restart", model=tmp_path / "model.ckpt.pt")
    assert second.samplers["Default"].state[0] == second.step_number == 4
    second.run(quiet=True)
    assert_same_training(whole, second)
    assert whole.samplers["Default"].state == second.samplers["Default"].state
    assert without_time(tmp_path / "lcurve.out") == log


@pytest.mark.parametrize(("before", "after"), [([1, 2, 4], 2), (2, [1, 2, 4])])
def test_a_training_does_not_go_on_with_batches_of_another_kind(content, tmp_path, before, after):
    content["training"]["training_data"]["batch_size"] = before
    make_trainer(settings_of_input(content)).run(quiet=True, until=1)
    content["training"]["training_data"]["batch_size"] = after
    with pytest.raises(ValueError, match="the checkpoint drew the frames of head Default in another way"):
        make_trainer(settings_of_input(content), start="restart", model=tmp_path / "model.ckpt.pt")
