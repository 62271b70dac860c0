"""The fast paths against the reference, through the calculator; and who may ask for which."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from functools import cache

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms
from ase.build import molecule
from test_parity import ENERGIES, PARITY_WARNINGS, Case, samples
from zoo import METALS

from dpa2_ase import DPA2Calculator, load_potential
from dpa2_ase.kernels import MODES, accelerate, choose_mode
from dpa2_ase.kernels.cpu import available

PARITY = zoo.DATA / "parity"
HAS_KERNELS, WHY = available()
FAST = ["torch", *["kernels"] * HAS_KERNELS]
# tables are good to 1e-12 of the forces, folded algebra to rounding; 1e-10 leaves room for models whose neighbors
# nearly cancel, as the random weights of the files do
TOLERANCE = 1e-10
pytestmark = [
    *PARITY_WARNINGS,
    pytest.mark.filterwarnings("ignore:mode .* leaves parts of this model to the slower reference:UserWarning"),
]


@cache
def calculator(case: Case, mode: str, dtype: str | None = "float64") -> DPA2Calculator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DPA2Calculator(case.path, head=case.head, device="cpu", dtype=dtype, mode=mode)


def assert_same(found: dict, expected: dict, tolerance: float = TOLERANCE) -> None:
    """Energies, forces and stresses relative to the largest force (one at least): the scale of their rounding."""
    assert found.keys() == expected.keys()
    scale = max(1.0, np.abs(expected["forces"]).max(initial=0.0))
    for name, value in expected.items():
        size = max(scale, np.abs(value).max(initial=0.0)) if "energ" in name else scale
        assert np.abs(found[name] - value).max(initial=0.0) <= tolerance * size, name


def structures_for(case: Case) -> list[Atoms]:
    found = [sample.atoms for sample in samples(case.numbers, case.head)]
    needs_parameters = any({"fparam", "aparam"} & ({*atoms.info} | {*atoms.arrays}) for atoms in found)
    if needs_parameters or not set(zoo.SYMBOLS) <= set(calculator(case, "reference").evaluator.reader.type_map):
        return found
    names = ("skew", "left-handed", "slab", "wire", "molecule", "one-atom", "one-atom-cell")
    return found + [zoo.structure(name) for name in names]


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("case", ENERGIES, ids=str)
def test_same_numbers_as_the_reference(case, mode):
    """All stored structures and the zoo in one batch, and one of them alone, with per-atom stresses."""
    structures = structures_for(case)
    reference, fast = calculator(case, "reference"), calculator(case, mode)
    properties = [name for name in reference.implemented_properties if name != "stresses"]
    expected = reference.evaluate(structures, properties)
    for found, wanted in zip(fast.evaluate(structures, properties), expected, strict=True):
        assert_same(found, wanted)
    atoms = next(atoms for atoms in structures if atoms.pbc.any())
    names = ["energy", "forces", "stress", "stresses"]
    alone = {name: fast.get_property(name, atoms) for name in names}
    assert_same(alone, {name: reference.get_property(name, atoms) for name in names})
    assert_same(alone, {name: fast.get_property(name, atoms) for name in names}, 0.0)  # backward passes leave no trace


SINGLE_STEMS = ("dpa2-medium", "dpa2-strip", "dpa1-temperature", "dpa2-truncated-sel")
SINGLE = [case for case in ENERGIES if case.path.stem in SINGLE_STEMS]


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_single_precision(case, mode):
    """1e-5: about 100 float32 roundings, as for the reference in float32."""
    exact, fast = calculator(case, "reference"), calculator(case, mode, "float32")
    for atoms in structures_for(case):
        expected, found = exact.evaluate([atoms])[0], fast.evaluate([atoms])[0]
        assert found["forces"].dtype == np.float64
        assert_same(found, expected, 1e-5)


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("name", ["dpa2-truncated-sel", "dpa2-exclude", "dpa2-medium"])
def test_a_moving_liquid(name, mode):
    """A list that is kept, cells that breathe, some neighborhoods overfull in the first of the models."""
    case = next(case for case in ENERGIES if case.path.stem == name)
    reference, fast = calculator(case, "reference"), calculator(case, mode)
    atoms = zoo.liquid(40, 11.0, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(4):
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
        atoms.set_cell(atoms.cell.array * rng.uniform(0.998, 1.002), scale_atoms=True)
        names = ("energy", "forces", "stress")
        assert_same(*({name: c.get_property(name, atoms) for name in names} for c in (fast, reference)))


@pytest.mark.parametrize("mode", FAST)
def test_only_first_derivatives_take_the_fast_path(mode):
    """Hessians come from the reference; descriptors agree."""
    case = next(case for case in ENERGIES if case.path.stem == "dpa2-medium")
    reference, fast = calculator(case, "reference"), calculator(case, mode)
    atoms = zoo.structure("skew")
    both = [c.get_hessian(atoms) for c in (fast, reference)]
    np.testing.assert_allclose(*both, rtol=0, atol=1e-13 * np.abs(both[1]).max())  # rounding of edge vectors
    both = [c.get_descriptors(atoms, invariants_only=False) for c in (fast, reference)]
    np.testing.assert_allclose(*both, atol=1e-11 * np.abs(both[1]).max())  # rounding of the tables


@pytest.mark.parametrize("mode", FAST)
def test_fast_calculators_travel(mode):
    case = next(case for case in ENERGIES if case.path.stem == "dpa2-medium")
    fast, atoms = calculator(case, mode), zoo.structure("skew")
    forces = fast.get_forces(atoms)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        np.testing.assert_array_equal(other.get_forces(atoms), forces)
        assert other.engine == fast.engine
        assert other.engine.fast
    facts = json.loads(json.dumps(fast.todict()))
    assert facts["mode"] == mode


@pytest.mark.parametrize("mode", FAST)
def test_a_fast_copy_shares_its_tensors(mode):
    """Nothing of the original changes, and what has the same precision takes no memory twice."""
    potential = load_potential(PARITY / "dpa2-medium.pt")
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    same, single = accelerate(potential, mode), accelerate(potential, mode, torch.float32)
    own = {tensor.data_ptr() for tensor in potential.state_dict().values()}
    for name, tensor in same.state_dict().items():
        if name in before:
            assert tensor.numel() == 0 or tensor.data_ptr() in own, name
    assert single.model.descriptor.type_embedding.layer.weight.dtype is torch.float32
    for name, tensor in potential.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    with pytest.raises(ValueError, match="accelerated one already"):
        accelerate(same, mode)


def test_what_auto_means():
    assert choose_mode("auto", torch.device("cpu"))[0] == ("kernels" if HAS_KERNELS else "torch")
    assert choose_mode("auto", torch.device("cuda")) == ("torch", "the compiled kernels are for the CPU, not for cuda")
    assert choose_mode("reference", torch.device("cpu"))[0] == "reference"
    with pytest.raises(ValueError, match="mode 'fast' is not one of auto, reference, torch, kernels"):
        DPA2Calculator(METALS, mode="fast")
    for mode in MODES:
        expected = "torch" if mode == "auto" and not HAS_KERNELS else "kernels" if mode == "auto" else mode
        if expected != "kernels" or HAS_KERNELS:
            assert DPA2Calculator(METALS, mode=mode, device="cpu").engine.mode == expected


@pytest.mark.parametrize("mode", ["torch", *(["kernels"] if HAS_KERNELS else [])])
def test_the_bundled_model_runs_on_tables(mode):
    """Functions too steep for any table get the exact nets, at ten times the cost: not those of the model we ship."""
    calculator = DPA2Calculator(head="materials-pbe", mode=mode, device="cpu")
    for atoms in (zoo.rattled("Cu", 2), molecule("H2O")):  # the latter's bonds ask for the widest tables
        calculator.get_forces(atoms)
    blocks = [getattr(module, "tabulated", module) for module in calculator.evaluator.potential.modules()]
    books = [block._book for block in blocks if hasattr(block, "_book")]
    assert len(books) >= 2  # repinit and three-body
    assert not any(book.refused for book in books)


def test_kernels_where_there_are_none():
    with pytest.raises(ValueError, match="mode 'kernels' is not available: .*; mode='torch' runs everywhere.*compiler"):
        choose_mode("kernels", torch.device("cuda"))
    if not HAS_KERNELS:
        with pytest.raises(ValueError, match="mode 'kernels' is not available"):
            DPA2Calculator(METALS, mode="kernels", device="cpu")


def test_what_stays_on_the_reference_is_told_only_if_asked_for():
    path = PARITY / "dpa2-everything.pt"
    with pytest.warns(UserWarning, match=r"mode 'torch' leaves .*repformer: .*update_g1_has_attn") as record:
        asked = DPA2Calculator(path, mode="torch", device="cpu")
    assert len(record) == 1
    assert "repformer: reference, " in str(asked.engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DPA2Calculator(path, device="cpu").engine.slow.keys() == asked.engine.slow.keys()
