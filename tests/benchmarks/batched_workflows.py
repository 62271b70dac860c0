"""CPU time of workflows with a calculator that evaluates batches and with the same one by one.

    OMP_NUM_THREADS=1 python tests/benchmarks/batched_workflows.py

Small cells, where a batch pays: primitive and cubic cells of the bundled model's elements. The best of three runs each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from dpa2_ase import DPA2Calculator
from dpa2_ase.workflows.neb import neb
from dpa2_ase.workflows.phonons import phonons
from dpa2_ase.workflows.relax import relax
from dpa2_ase.workflows.relax_many import relax_many


class OneByOne(DPA2Calculator):
    """The same calculator for those who do not know that it has batches."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("evaluate", "get_hessian", "get_hessian_products"):
            raise AttributeError(name)
        return super().__getattribute__(name)


def crystals() -> list[Atoms]:
    generator, found = np.random.default_rng(0), []
    for index in range(32):
        atoms = bulk(["Cu", "Ni", "Si", "Ge"][index % 4], cubic=index % 8 < 2)
        atoms.rattle(0.05, seed=index)
        atoms.set_cell(atoms.cell * (1 + 0.01 * generator.normal()), scale_atoms=True)
        found.append(atoms)
    return found


def relaxations(calc: Any, cell: bool, one_by_one: bool) -> None:
    if not one_by_one:
        relax_many(crystals(), calc, cell=cell, optimizer="bfgs", fmax=0.02)
        return
    for atoms in crystals():
        atoms.calc = calc
        relax(atoms, cell=cell, optimizer="bfgs", fmax=0.02)


def vacancy_hop(calc: Any, images: int) -> None:
    crystal = bulk("Cu", cubic=True)
    initial, final = crystal[1:], crystal[1:]
    final.positions[0] = 0.0
    initial.calc = calc
    neb(initial, final, images=images, fmax=0.05, max_steps=30, climb=False)


def displacements(calc: Any, supercell: tuple[int, int, int]) -> None:
    atoms = bulk("Ge", cubic=True)
    atoms.rattle(0.05, seed=3)  # without symmetry: 48 displaced supercells
    atoms.calc = calc
    phonons(atoms, supercell=supercell, relax_first="none", source="displacements")


def seconds(job: Callable[[], None]) -> float:
    job()
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        job()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    batches, single = DPA2Calculator(dtype="float64"), OneByOne(dtype="float64")
    jobs: dict[str, Callable[[Any], None]] = {
        "32 relaxations": lambda calc: relaxations(calc, False, calc is single),
        "32 relaxations with cells": lambda calc: relaxations(calc, True, calc is single),
        "band of 5 images": lambda calc: vacancy_hop(calc, 5),
        "band of 11 images": lambda calc: vacancy_hop(calc, 11),
        "48 displacements of 8 atoms": lambda calc: displacements(calc, (1, 1, 1)),
        "48 displacements of 16 atoms": lambda calc: displacements(calc, (2, 1, 1)),
    }
    print(f"{'job':30} {'batched (s)':>12} {'one by one (s)':>15} {'ratio':>6}")
    for name, job in jobs.items():
        together, apart = seconds(lambda job=job: job(batches)), seconds(lambda job=job: job(single))
        print(f"{name:30} {together:12.2f} {apart:15.2f} {apart / together:6.1f}")


if __name__ == "__main__":
    main()
