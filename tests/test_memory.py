"""The estimate of memory against what an evaluation takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st

from dpa2_ase import DPA2Calculator
from dpa2_ase.checkpoint import load_potential
from dpa2_ase.interfaces import memory_watch
from dpa2_ase.interfaces.plan import available_memory, largest_copies
from dpa2_ase.kernels.cpu import available
from dpa2_ase.memory import evaluation_bytes, evaluation_terms, split_by_memory
from dpa2_ase.model import Potential, differentiable
from dpa2_ase.neighbors import Pairs, build_neighbor_list

FAST = ["torch", *["kernels"] * available()[0]]
# volumes per atom (Å³) at which the lists of the models are about full
MODELS = [
    ("parity/dpa1-attn", 12.0),
    ("parity/dpa2-large-dims", 14.0),
    ("parity/dpa2-small-noattn", 14.0),
    ("metals6", 12.0),
]
OTHERS = [("parity/dpa1-noattn-strip", 12.0), ("parity/dpa2-everything", 14.0), ("parity/dpa2-float32", 14.0)]
OTHERS += [("extra/dpa1-lmax4", 14.0), ("extra/linear-list", 14.0), ("extra/zbl-dpa1", 14.0)]


def load(name: str) -> Potential:
    return load_potential(zoo.DATA / f"{name}.pt")


def estimate(potential: Potential, atoms) -> float:
    return evaluation_bytes(potential.config, Pairs(build_neighbor_list(atoms, potential.cutoff)))


def saved_bytes(potential: Potential, atoms) -> int:
    """Bytes that a forward pass keeps for the backward pass, every storage counted once."""
    graph = differentiable(zoo.graph_of(potential, atoms))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*potential.parameters(), *potential.buffers())}
    sizes: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        energy = potential(graph)
    assert energy.requires_grad  # alive until here, so that no storage was counted for another
    return sum(sizes.values())


@pytest.mark.parametrize(("name", "volume"), MODELS + OTHERS)
def test_what_is_kept_for_the_backward_pass(name, volume):
    """Temporaries of the backward pass add about half of it to the peak, so the estimate is larger, to 2.5 times."""
    potential = load(name)
    atoms = zoo.liquid(100, volume, seed=1, names=potential.type_map[:3])
    assert 1.0 < estimate(potential, atoms) / saved_bytes(potential, atoms) < 2.5


PEAK = """
import sys
from test_memory import estimate, load, zoo
import torch
torch.set_num_threads(1)
name, volume = sys.argv[1], float(sys.argv[2])
potential = load(name)
zoo.predict(potential, zoo.liquid(10, volume, names=potential.type_map[:3]))  # what the first call loads is not counted
atoms = zoo.liquid(250, volume, seed=1, names=potential.type_map[:3])
graph = zoo.graph_of(potential, atoms)
expected = estimate(potential, atoms)

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = status("VmRSS")
potential.predict(graph)
print(expected / (status("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize(("name", "volume"), MODELS)
def test_peak_of_energy_and_forces(name, volume):
    """Right within a factor of two, of the resident memory of a process of its own."""
    command = [sys.executable, "-c", PEAK, name, str(volume)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert 0.5 < float(done.stdout) < 2.0


OFFICIAL = """
import ctypes, json, sys, warnings
from pathlib import Path
import torch
from ase.io import read
from dpa2_ase import DPA2Calculator
from dpa2_ase.model import Potential
from dpa2_ase.parsing import parse_model
torch.set_num_threads(1)
torch.manual_seed(0)
config, mode, dtype, repeats = sys.argv[1:]
potential = Potential(parse_model(json.loads(Path(config).read_text())))
calculator = DPA2Calculator(potential, mode=mode, dtype=dtype, device="cpu")
unit = read("water.extxyz")
calculator.get_forces(unit[:12])  # what the first call loads is not counted
atoms = unit.repeat([int(n) for n in repeats.split("x")])
atoms.rattle(0.01, seed=1)

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
if trim:  # give back what was freed: to use it again would not be seen
    trim(0)
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = status("VmRSS")
plan = calculator.plan(atoms)
calculator.get_stress(atoms)
print(plan.peak_bytes / (status("VmHWM") - before))
"""
BOUNDS = (0.8, 1.2)  # 0.90 to 1.10 were measured: the holes between arrays in the heap differ from run to run
MODES = ["reference", *FAST]
PLANS = [(name, mode, dtype) for name in ("small", "medium") for mode in MODES for dtype in ("float64", "float32")]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize(("name", "mode", "dtype"), PLANS)
def test_plan_of_official_models(name, mode, dtype, tmp_path):
    """Energy, forces and stress through the calculator, neighbor list included, on 1536 atoms (reference: 192)."""
    write(tmp_path / "water.extxyz", zoo.liquid(48, 9.97, names=("O", "H", "H")))  # as dense as liquid water
    config = Path(__file__).parent / "benchmarks" / "configs" / f"dpa2-{name}.json"
    command = [sys.executable, "-c", OFFICIAL, config, mode, dtype, "2x2x1" if mode == "reference" else "4x4x2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert BOUNDS[0] < float(done.stdout) < BOUNDS[1]


def test_plan_and_what_it_says():
    calculator = DPA2Calculator(zoo.DATA / "parity" / "dpa2-medium.pt", device="cpu", mode="reference")
    atoms = zoo.liquid(30, 14.0)
    plan = calculator.plan(atoms, memory=1.0)
    assert plan.n_atoms == 30
    assert plan.n_edges == len(build_neighbor_list(atoms, 6.0).center)
    assert plan.mode == calculator.engine.mode == "reference"
    assert plan.peak_bytes == pytest.approx(sum(plan.terms.values()))
    assert plan.fits
    assert plan.copies == pytest.approx(2**30 / plan.peak_bytes, abs=1)  # the reference takes the same for every copy
    assert f"{plan.copies} times this structure" in str(plan)
    assert all(name in str(plan) for name in plan.terms)
    small = calculator.plan(atoms, memory=1e-4)
    assert not small.fits
    assert small.copies == 0
    assert "less than this structure" in str(small)
    single = DPA2Calculator(zoo.DATA / "parity" / "dpa2-medium.pt", device="cpu", mode="reference", dtype="float32")
    assert 0.5 <= single.plan(atoms).peak_bytes / plan.peak_bytes < 0.6
    with pytest.raises(ValueError, match="not in the model's type map"):
        calculator.plan(Atoms("Na"))


@given(st.floats(1, 1e6), st.floats(0, 1e9))
def test_largest_copies(size, memory):
    found = largest_copies(lambda copies: copies * size, memory)
    assert found * size <= memory
    assert (found + 1) * size > memory


def test_structures_that_cannot_fit_are_refused(monkeypatch):
    """Before anything is allocated, naming the way out; a near miss is a warning, and only larger ones are new."""
    calculator = DPA2Calculator(zoo.DATA / "parity" / "dpa2-medium.pt", device="cpu", mode="reference")
    atoms = zoo.liquid(30, 25.0)
    needed = calculator.plan(atoms).peak_bytes
    monkeypatch.setattr(memory_watch, "available_memory", lambda device: needed / 2)
    for ask in (calculator.get_forces, lambda structure: calculator.evaluate([structure])):
        with pytest.raises(
            MemoryError, match=r"30 atoms need about .* use dtype='float32' \(now float64\), mode='auto'"
        ):
            ask(atoms)
    monkeypatch.setattr(memory_watch, "available_memory", lambda device: needed / 1.2)
    with pytest.warns(UserWarning, match="calc.plan"):
        calculator.get_forces(atoms)
    calculator.get_forces(atoms[:20])  # not larger than one that went well


def test_memory_that_is_there():
    found = available_memory(torch.device("cpu"))
    assert found is None or 2**20 < found < 2**50


@pytest.mark.parametrize("name", ["parity/dpa1-attn", "parity/dpa2-everything", "metals6"])
def test_estimate_grows_with_the_structure(name):
    """Twice the cell, twice the memory; a lone atom costs little; float32 costs half."""
    potential = load(name)
    atoms = zoo.liquid(30, 14.0, names=potential.type_map[:3])
    assert estimate(potential, atoms.repeat((1, 2, 1))) == pytest.approx(2 * estimate(potential, atoms), rel=1e-12)
    assert 0 < estimate(potential, atoms[:1]) < 0.2 * estimate(potential, atoms)
    assert estimate(load("parity/dpa2-medium"), atoms[[0]]) == 2 * estimate(load("parity/dpa2-float32"), atoms[[0]])


def test_estimate_stops_at_the_list_length():
    """Neighbors beyond the nearest nsel take no memory but in the list."""
    potential = load("parity/dpa2-truncated-sel")
    dense, denser = (zoo.liquid(60, volume, seed=2) for volume in (8.0, 6.0))
    edges = [len(build_neighbor_list(atoms, potential.cutoff).center) for atoms in (dense, denser)]
    assert edges[1] > 1.2 * edges[0]
    sizes = []
    for atoms in (dense, denser):
        terms = evaluation_terms(potential.config, Pairs(build_neighbor_list(atoms, potential.cutoff)))
        sizes.append(sum(terms.values()) - terms["neighbor list"])
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(1e-3, 300))
def test_split_by_memory(costs, limit):
    """Every structure once and in order; no run above the limit but single structures; none that could be joined."""
    runs = list(split_by_memory(costs, limit))
    assert [index for run in runs for index in run] == list(range(len(costs)))
    assert all(len(run) > 0 for run in runs)
    sums = [float(np.cumsum([costs[i] for i in run])[-1]) for run in runs]
    assert all(total <= limit or len(run) == 1 for run, total in zip(runs, sums, strict=True))
    for total, following in zip(sums, runs[1:], strict=False):
        assert total + costs[following[0]] > limit
