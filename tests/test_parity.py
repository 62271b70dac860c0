"""DeePMD-kit's own numbers, stored in ``data/`` with the scripts and versions that made them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from dpa2_ase import DPA2Calculator, derivatives, heads
from dpa2_ase.bundled import bundled_model
from dpa2_ase.interfaces.evaluator import Evaluator
from dpa2_ase.interfaces.loading import open_evaluator
from dpa2_ase.model import differentiable

DATA = Path(__file__).parent / "data"
CONTAINERS = (".pt", ".pth", ".dp", ".hdf5", ".yaml", ".pte", ".pt2")
NUMBERS_OF = {"dpa2-strip-compressed": "dpa2-strip"}  # the same weights as tables
INCOMPLETE = {"linear-mean.pth"}  # DeePMD-kit leaves the configuration out of frozen linear models
# float64: rounding of another summation order, amplified by derivatives; float32: about 100 roundings of 1e-7
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
DERIVATIVE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
PARITY_WARNINGS = [
    pytest.mark.filterwarnings("ignore:this model was trained with set_davg_zero:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*atoms have more than .* neighbors:UserWarning"),  # the -truncated cases
    pytest.mark.filterwarnings("ignore:this model was trained without smooth attention:UserWarning"),
    pytest.mark.filterwarnings("ignore:head .* was not trained on:UserWarning"),
]
pytestmark = PARITY_WARNINGS


@dataclass(frozen=True)
class Case:
    """One head of one model file and the file that holds its numbers."""

    path: Path
    numbers: Path
    head: str | None

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}" + (f"[{self.head}]" if self.head else "")


@lru_cache(maxsize=4)
def _read(numbers: Path) -> dict[str, np.ndarray]:
    with np.load(numbers) as file:
        return dict(file)


def _cases() -> list[Case]:
    found = []
    for folder in ("parity", "extra"):
        for path in sorted((DATA / folder).iterdir()):
            numbers = path.with_name(f"{NUMBERS_OF.get(path.stem, path.stem)}.npz")
            if path.suffix in CONTAINERS and numbers.exists() and path.name not in INCOMPLETE:
                keys = _read(numbers)
                heads = sorted({key.split("/")[0] for key in keys if key.count("/") == 2})
                found += [Case(path, numbers, head) for head in heads or [None]]
    return found


CASES = _cases()
ENERGIES = [
    case for case in CASES if case.path.suffix == ".pt" and any(k.endswith("/energy") for k in _read(case.numbers))
]


@dataclass(frozen=True)
class Sample:
    """One structure with its stored numbers."""

    name: str
    atoms: Atoms
    expected: dict[str, np.ndarray]


def samples(numbers: Path, head: str | None = None) -> list[Sample]:
    """The structures of one head."""
    data = _read(numbers)
    prefix = f"{head}/" if head else ""
    type_map = data[f"{prefix}type_map"] if f"{prefix}type_map" in data else data["type_map"]
    found = []
    for name in sorted(
        {key.removeprefix(prefix).split("/")[0] for key in data if key.startswith(prefix) and "/" in key}
    ):
        row = {key.rsplit("/", 1)[1]: value for key, value in data.items() if key.startswith(f"{prefix}{name}/")}
        if "coords" in row:
            atoms = Atoms(
                [str(type_map[t]) for t in row["types"]], row["coords"], cell=row.get("cell"), pbc="cell" in row
            )
            if "fparam" in row:
                atoms.info["fparam"] = row["fparam"]
            if "aparam" in row:
                atoms.arrays["aparam"] = row["aparam"]
            found.append(Sample(name, atoms, row))
    assert found
    return found


def evaluate(evaluator: Evaluator, atoms: Atoms) -> dict[str, np.ndarray]:
    """Every quantity of a structure under the names of the stored files."""
    inputs = evaluator.reader.read([atoms], [evaluator.reader.neighbor_list(atoms, 0.0)])
    potential = evaluator.potential
    if evaluator.kind != "ener":
        found = potential.predict(inputs.graph, inputs.fparam, inputs.aparam)
        return {"global": found.total[0].flatten().numpy(), "atomic": found.atomic.flatten(1).numpy()}
    graph = differentiable(inputs.graph)
    atomic = potential.atomic(graph, inputs.fparam, inputs.aparam)
    virials = derivatives.atomic_virials(atomic, graph, torch.as_tensor(atoms.positions))
    found = potential.predict(inputs.graph, inputs.fparam, inputs.aparam)
    return {
        "energy": found.energy[0].numpy(),
        "forces": found.forces.numpy(),
        "virial": found.virial[0].numpy(),
        "atomic_energies": found.atomic_energies.numpy(),
        "atomic_virials": virials.numpy(),
        "descriptors": potential.descriptors(inputs.graph)[0].numpy(),
    }


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest deviation over the largest value; numbers below one (eV, Å) count as one."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max(initial=0.0) / max(1.0, np.abs(expected).max(initial=0.0)))


def precision(evaluator: Evaluator) -> torch.dtype:
    return next(evaluator.potential.parameters()).dtype


@pytest.mark.parametrize("case", CASES, ids=str)
def test_stored_numbers(case):
    """Energy, forces, virial, atomic energies and virials, descriptors; or totals and atomic values of other kinds."""
    evaluator, _ = open_evaluator(case.path, head=case.head)
    dtype = precision(evaluator)
    loose = 1.0 if "compressed" not in case.path.stem or case.path.stem == case.numbers.stem else 10.0  # table error
    for sample in samples(case.numbers, case.head):
        found = evaluate(evaluator, sample.atoms)
        compared = [key for key in found if key in sample.expected]
        assert len(compared) >= 2
        for key in compared:
            values = DERIVATIVE_TOLERANCE if key in ("forces", "virial", "atomic_virials") else TOLERANCE
            error = difference(found[key], sample.expected[key])
            assert error <= loose * values[dtype], f"{key} of {sample.name} differs by {error:.1e}"


OTHER_CONTAINERS = [
    c for c in CASES if c.path.suffix != ".pt" and c.path.with_suffix(".pt").exists() and c.path.stem == c.numbers.stem
]


@pytest.mark.parametrize("case", OTHER_CONTAINERS, ids=str)
def test_containers_hold_the_same_model(case):
    """1e-12: the tensors are the same bits, in some formats written as decimal numbers."""
    one, _ = open_evaluator(case.path, head=case.head)
    other, _ = open_evaluator(case.path.with_suffix(".pt"), head=case.head)
    for sample in samples(case.numbers, case.head):
        first, second = evaluate(one, sample.atoms), evaluate(other, sample.atoms)
        for key, value in first.items():
            assert difference(value, second[key]) <= 1e-12, key


@pytest.mark.parametrize("case", ENERGIES, ids=str)
def test_calculator(case):
    """What an ASE user gets: energy, forces and stress, with a neighbor list that has a skin."""
    calculator = DPA2Calculator(case.path, head=case.head, device="cpu")
    dtype = precision(calculator.evaluator)
    for sample in samples(case.numbers, case.head):
        atoms, expected = sample.atoms, sample.expected
        atoms.calc = calculator
        assert difference(np.array(atoms.get_potential_energy()), expected["energy"]) <= TOLERANCE[dtype]
        assert difference(atoms.get_forces(), expected["forces"]) <= DERIVATIVE_TOLERANCE[dtype]
        if atoms.pbc.any():
            virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
            symmetric = (expected["virial"] + expected["virial"].T) / 2
            assert difference(virial, symmetric) <= DERIVATIVE_TOLERANCE[dtype]


TRAINED = [
    pytest.param(DATA / "metals6.pt", None, sample, id=f"metals6-{sample.name}")
    for sample in samples(DATA / "metals6-reference.npz")
] + [
    pytest.param(bundled_model(), head, sample, id=f"{head}-{sample.name}")
    for head in heads(bundled_model())
    for sample in samples(DATA / "bundled-reference.npz", head)
]


@pytest.mark.parametrize(("model", "head", "sample"), TRAINED)
def test_trained_models(model, head, sample):
    """Float32 nets as DeePMD-kit evaluates them; those of the package in all their heads."""
    evaluator, _ = open_evaluator(model, head=head)
    assert next(evaluator.potential.model.get_submodule("fitting").parameters()).dtype == torch.float32
    found = evaluate(evaluator, sample.atoms)
    for key in ("energy", "forces", "virial", "atomic_energies"):
        assert difference(found[key], sample.expected[key]) <= TOLERANCE[torch.float32], key


@pytest.mark.parametrize(
    "name", ["parity/dpa2-float32", "extra/dpa1-float32", "parity/dpa2-everything", "parity/dpa1-attn"]
)
def test_other_precision(name):
    """Nets of one precision evaluated in the other: 1e-5, about 100 float32 roundings.

    In `dpa1-attn` some neighbors are just inside the cutoff, where a switch with cancellation spoils the directions.
    """
    path = DATA / f"{name}.pt"
    stored, _ = open_evaluator(path)
    other = "float32" if precision(stored) == torch.float64 else "float64"
    evaluator, _ = open_evaluator(path, dtype=other)
    assert precision(evaluator) == getattr(torch, other)
    for sample in samples(path.with_suffix(".npz")):
        found = evaluate(evaluator, sample.atoms)
        assert found["energy"].dtype == found["forces"].dtype == np.float64
        errors = {key: difference(value, sample.expected[key]) for key, value in found.items()}
        assert 0 < max(errors.values()) <= 1e-5, errors


def test_every_stored_file_has_a_model():
    """No numbers lie about unused, and no list of cases is empty by accident."""
    stored = {path for folder in ("parity", "extra") for path in (DATA / folder).glob("*.npz")}
    assert stored == {case.numbers for case in CASES}
    assert len(stored) >= 80
    assert {case.path.suffix for case in CASES} >= {".pt", ".pth", ".dp", ".yaml", ".pte"}
