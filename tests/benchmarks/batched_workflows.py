"""CPU time of workflows with a calculator that evaluates batches, and with the same calculator one by one.

    OMP_NUM_THREADS=1 python tests/benchmarks/batched_workflows.py

Small cells, where a batch pays: primitive and cubic cells of four metals and of germanium, with the bundled model's own
heads for them. Both do the same work to the same criteria; that they arrive at the same numbers is checked before they
are timed. Pairs of runs take turns, and each has the best of three.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from dpa2_ase import DPA2Calculator
from dpa2_ase.workflows import neb, phonons, relax, relax_many

sys.path.insert(0, str(Path(__file__).parents[1]))
from bundled import head_for  # the tests' own choice of a head

METALS = ("Cu", "Ni", "Mo", "Li")
RUNS = 3


class OneByOne(DPA2Calculator):
    """The same calculator for those who do not know that it has batches."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("evaluate", "get_hessian", "get_hessian_products", "get_strain_derivatives"):
            raise AttributeError(name)
        return super().__getattribute__(name)


def crystals() -> list[Atoms]:
    generator, found = np.random.default_rng(0), []
    for index in range(32):
        atoms = bulk(METALS[index % 4], cubic=index % 8 < 2)
        atoms.rattle(0.05, seed=index)
        atoms.set_cell(atoms.cell * (1 + 0.01 * generator.normal()), scale_atoms=True)
        found.append(atoms)
    return found


def relaxations(calc: Any, cell: bool) -> np.ndarray:
    """Final energies (32,) eV; every structure to 0.02 eV/Å or 500 steps of its own optimizer."""
    if not isinstance(calc, OneByOne):
        runs = relax_many(crystals(), calc, cell=cell, optimizer="bfgs", fmax=0.02)
    else:
        runs = []
        for atoms in crystals():
            atoms.calc = calc
            runs.append(relax(atoms, cell=cell, optimizer="bfgs", fmax=0.02))
    assert all(run.converged for run in runs)
    return np.array([run.final.energy for run in runs])


def vacancy_hop(calc: Any, images: int) -> np.ndarray:
    """Energies of the images, eV, after 30 steps."""
    crystal = bulk("Cu", cubic=True)
    initial, final = crystal[1:], crystal[1:]
    final.positions[0] = 0.0
    initial.calc = calc
    return neb(initial, final, images=images, fmax=1e-3, max_steps=30, climb=False).energies


def displacements(calc: Any, supercell: tuple[int, int, int]) -> np.ndarray:
    """Frequencies of a wave, THz; 48 displaced supercells since there is no symmetry."""
    atoms = bulk("Ge", cubic=True)
    atoms.rattle(0.05, seed=3)
    atoms.calc = calc
    found = phonons(atoms, supercell=supercell, relax_first="none", source="displacements")
    assert found.n_displacements == 48
    return found.frequencies([[0.5, 0.0, 0.0]])


JOBS: dict[str, tuple[tuple[str, ...], Callable[[Any], np.ndarray]]] = {  # elements, and what to do
    "32 relaxations": (METALS, lambda calc: relaxations(calc, False)),
    "32 relaxations with cells": (METALS, lambda calc: relaxations(calc, True)),
    "band of 5 images": (METALS, lambda calc: vacancy_hop(calc, 5)),
    "band of 11 images": (METALS, lambda calc: vacancy_hop(calc, 11)),
    "48 displacements of 8 atoms": (("Ge",), lambda calc: displacements(calc, (1, 1, 1))),
    "48 displacements of 16 atoms": (("Ge",), lambda calc: displacements(calc, (2, 1, 1))),
}


def seconds(job: Callable[[Any], np.ndarray], calc: Any) -> float:
    """CPU time of one run: other processes do not count."""
    start = time.process_time()
    job(calc)
    return time.process_time() - start


def main() -> None:
    print(f"{'job':30} {'batched (s)':>12} {'one by one (s)':>15} {'ratio':>6} {'difference':>11}")
    for name, (symbols, job) in JOBS.items():
        options = {"head": head_for(*symbols), "dtype": "float64"}
        batches, single = DPA2Calculator(**options), OneByOne(**options)
        difference = np.abs(job(batches) - job(single)).max()  # and everything is warm
        assert difference < 1e-6, name
        pairs = [(seconds(job, batches), seconds(job, single)) for _ in range(RUNS)]
        together, apart = (min(times) for times in zip(*pairs, strict=True))
        print(f"{name:30} {together:12.2f} {apart:15.2f} {apart / together:6.1f} {difference:11.0e}", flush=True)


if __name__ == "__main__":
    main()
