"""Structures and tiny models for the tests: irregular, seeded, with every awkward case by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.model import Potential, Prediction
from dpa2_ase.neighbors import build_neighbor_list
from dpa2_ase.nn.environment import Environment
from dpa2_ase.topology import graph_of_structures

DATA = Path(__file__).parent / "data"
METALS = DATA / "metals6.pt"  # a small model of Li, Si, Ni, Cu, Ge, Mo with a single head, trained with DeePMD-kit
SYMBOLS = ("O", "H", "Cu")  # the type map of the models below
# tiny networks with random weights, cutoffs 6 Å (repinit, DPA-1) and 4 Å (repformer, three-body)
SMOOTH = ("dpa1-temperature", "dpa1-attn-strip-smooth", "dpa2-everything", "dpa2-strip", "dpa2-resincr-layer")
NOT_SMOOTH = ("dpa1-attn", "dpa2-resavg-nosmooth")  # trained so: they jump where a neighbor enters
HIGHER_DEGREES = ("extra/dpa1-lmax4",)  # cutoff 4 Å


@cache
def _potential(name: str) -> Potential:
    potential = load_potential(DATA / f"{name}.pt" if "/" in name else DATA / "parity" / f"{name}.pt")
    for module in potential.modules():
        if isinstance(module, Environment):
            module.std[:, 2:] = module.std[:, 1:2]  # the files' noise treats x, y and z differently
            module.mean[:, 1:] = 0.0
    return potential


def potential(name: str) -> Potential:
    """A rotation-invariant model: the weights of a parity file (or ``extra/NAME``) without angular statistics."""
    return _potential(name)


def symbols(rng: np.random.Generator, n_atoms: int) -> list[str]:
    """Elements of the type map, all of them where there are enough atoms."""
    return [SYMBOLS[k % 3] for k in rng.permutation(n_atoms)]


def spread(positions: np.ndarray, lattice: np.ndarray | None, closest: float) -> np.ndarray:
    """Push atoms apart until no two (images included) are closer than `closest` Å, a lattice vector excepted."""
    shifts = np.array([[0.0, 0.0, 0.0]])
    if lattice is not None:
        shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3) @ lattice
    for _ in range(1000):
        vectors = positions[:, None, None] - positions[None, :, None] + shifts  # (N, N, S, 3)
        length = np.linalg.norm(vectors, axis=-1)
        length[np.arange(len(positions)), np.arange(len(positions))] = np.inf
        push = np.where((length < closest)[..., None], 0.1 * vectors / length[..., None], 0.0).sum((1, 2))
        if not push.any():
            return positions
        positions = positions + push
    raise AssertionError("this many atoms do not fit")


def _atoms(seed: int, n_atoms: int, cell: np.ndarray | None, pbc: tuple[bool, bool, bool], closest: float) -> Atoms:
    rng = np.random.default_rng(seed)
    box = (
        np.diag([5.0, 4.5, 4.0])
        if cell is None
        else np.where(np.linalg.norm(cell, axis=1)[:, None] > 0, cell, np.eye(3))
    )
    lattice = None if cell is None else np.where(np.array(pbc)[:, None], cell, 0.0)
    positions = spread(rng.random((n_atoms, 3)) @ box, lattice, closest)
    positions += (
        rng.integers(-1, 2, (n_atoms, 3)) * np.array(pbc) @ (np.eye(3) if cell is None else cell)
    )  # outside too
    return Atoms(symbols(rng, n_atoms), positions, cell=cell, pbc=pbc)


SKEW = np.array([[4.6, 0.3, -0.4], [1.6, 4.1, 0.5], [-0.9, 1.3, 4.4]])  # Å, every height below the cutoff of 6 Å


@cache
def _structures() -> dict[str, Atoms]:
    left = SKEW.copy()
    left[2] *= -1.0
    slab = np.array([[5.1, 0.4, 0.3], [1.2, 4.8, -0.2], [0.5, 0.2, 14.0]])
    wire = np.array([[3.7, 0.5, 0.8], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    sheared = np.array([[5.0, 0.2, 0.1], [9.1, 4.7, 0.3], [-6.3, 8.2, 5.2]])  # far from reduced
    return {
        "skew": _atoms(1, 3, SKEW, (True, True, True), 1.3),
        "left-handed": _atoms(2, 3, left, (True, True, True), 1.3),
        "sheared": _atoms(3, 5, sheared, (True, True, True), 1.3),
        "slab": _atoms(4, 4, slab, (True, True, False), 1.3),
        "wire": _atoms(5, 2, wire, (True, False, False), 1.3),
        "molecule": _atoms(6, 7, None, (False, False, False), 1.1),
        "dimer": Atoms("CuO", [[0.1, 0.2, -0.3], [1.0, -1.1, 0.9]]),
        "one-atom": Atoms("Cu", [[0.3, -0.1, 5.0]]),
        "one-atom-cell": Atoms("Cu", [[9.3, -0.1, 5.0]], cell=SKEW, pbc=True),
    }


def structures(*names: str) -> list:
    """Copies of the structures of these names (all without names), wrapped as parameters of a test."""
    chosen = names or tuple(_structures())
    return [pytest.param(_structures()[name].copy(), id=name) for name in chosen]


def structure(name: str) -> Atoms:
    """A copy of one structure."""
    return _structures()[name].copy()


def liquid(n_atoms: int, volume: float, seed: int = 0, names: tuple[str, ...] = SYMBOLS) -> Atoms:
    """A disordered periodic box with `volume` Å³ per atom."""
    rng = np.random.default_rng(seed)
    cell = np.diag([1.1, 0.95, 1.0]) + rng.normal(0, 0.05, (3, 3))
    cell *= (n_atoms * volume / np.linalg.det(cell)) ** (1 / 3)
    positions = spread(rng.random((n_atoms, 3)) @ cell, cell, 0.75 * volume ** (1 / 3))
    return Atoms([names[k % len(names)] for k in rng.permutation(n_atoms)], positions, cell=cell, pbc=True)


def rattled(symbol: str, repeat: int, seed: int = 0) -> Atoms:
    """A cubic supercell with atoms moved by about 0.05 Å."""
    atoms = bulk(symbol, cubic=True) * repeat
    atoms.rattle(0.05, seed=seed)
    return atoms


def graph_of(potential: Potential, *atoms: Atoms) -> AtomicGraph:
    """The graph of some structures, the way the calculator makes it."""
    lists = [build_neighbor_list(a, potential.cutoff) for a in atoms]
    types = [np.array([potential.type_map.index(s) for s in a.get_chemical_symbols()]) for a in atoms]
    return graph_of_structures(atoms, lists, types)


def predict(potential: Potential, *atoms: Atoms) -> Prediction:
    """All quantities of some structures in one pass."""
    return potential.predict(graph_of(potential, *atoms))


def energy(potential: Potential, atoms: Atoms) -> float:
    """Energy of one structure, eV."""
    return potential.predict(graph_of(potential, atoms), derivatives_of_energy=False).energy.item()
