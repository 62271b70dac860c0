"""Whether a multi-task model behaves where errors do not look: sanity.py MODEL DATA [--steps N]

- Curves of energy against volume of simple crystals: one minimum, how far its lattice constant is from experiment, and
  the roughest place of the pressure, as the change of the bulk modulus within 0.2 % of the lattice constant.
- Dimers of every element: the smallest distance (Å) down to which energies rise as atoms come together.
- Dynamics from a held-out frame of every head, hot: the smallest distance ever, over the sum of covalent radii.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.data import covalent_radii
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list

from dpa2_ase import DPA2Calculator, heads

CRYSTALS = {  # Å, experiment
    "metals-pbe": [("Cu", "fcc", 3.615), ("Ni", "fcc", 3.524), ("Li", "bcc", 3.51), ("Mo", "bcc", 3.147)],
    "refractory-pbe": [("Nb", "bcc", 3.301), ("Mo", "bcc", 3.147), ("Ta", "bcc", 3.303), ("W", "bcc", 3.165)],
    "semiconductors-pbe": [("Si", "diamond", 5.431), ("Ge", "diamond", 5.658)],
    "materials-pbe": [
        ("Al", "fcc", 4.05), ("Cu", "fcc", 3.615), ("Fe", "bcc", 2.867), ("W", "bcc", 3.165), ("Si", "diamond", 5.431),
        ("C", "diamond", 3.567), ("GaAs", "zincblende", 5.653), ("MgO", "rocksalt", 4.212), ("NaCl", "rocksalt", 5.64),
        ("LiF", "rocksalt", 4.026), ("TiN", "rocksalt", 4.24),
    ],
}  # fmt: skip
DYNAMICS = [  # K
    ("metals_mlearn_pbe", "metals-pbe", 2000),
    ("NiMoCu_snap_pbe", "metals-pbe", 2000),
    ("refractory_NbMoTaW_pbe", "refractory-pbe", 3500),
    ("semiconductors_mlearn_pbe", "semiconductors-pbe", 2000),
    ("water_pbe0_deepmd", "water-pbe0", 500),
    ("mol_3bpa_wb97x", "molecules-wb97x", 1000),
    ("mol_acac_pbe", "molecules-pbe", 1000),
    ("electrolyte_ECEMC_pbe", "electrolyte-pbe", 1000),
    ("MAPbI3_scan", "perovskite-scan", 600),
    ("universal_pbe_mattersim_bench", "materials-pbe", 1000),
]
EVERY = 3  # steps
FRAMES = 3  # of a set, to start from
NEAR = 0.05  # of the lattice constant
DIMERS = "diatomics-pbe"
DISTANCES = np.linspace(0.4, 6.0, 113)  # Å
BOND = (8, 72)  # of the distances, 0.8 to 4 Å: where the minimum of a dimer is


def crystals(model: str) -> None:
    """Energy against volume, from 0.9 to 1.15 of the lattice constant."""
    columns = "minima | lattice constant / experiment | largest jump of the bulk modulus | near the minimum"
    print(f"| head | crystal | {columns} |")
    print("|---|---|---:|---:|---:|---:|")
    for head, rows in CRYSTALS.items():
        calculator = DPA2Calculator(model, head=head, dtype="float64")
        for name, lattice, a in rows:
            factors = np.arange(0.9, 1.15, 0.002)
            frames = [bulk(name, lattice, a=a * factor) for factor in factors]
            found = calculator.evaluate(frames, ["energy", "stress"])
            energy = np.array([row["energy"] for row in found])
            pressure = np.array([-row["stress"][:3].mean() for row in found])
            minima = int(((energy[1:-1] < energy[:-2]) & (energy[1:-1] < energy[2:])).sum())
            modulus = -np.diff(pressure) / np.diff(np.log(factors**3))
            jumps, best = np.abs(np.diff(modulus)) / np.abs(modulus).max(), factors[energy.argmin()]
            near = jumps[np.abs(factors[1:-1] - best) < NEAR]
            print(f"| {head} | {name} | {minima} | {best:.3f} | {jumps.max():.2f} | {near.max():.2f} |", flush=True)


def dimers(model: str) -> None:
    """Repulsion of free pairs of atoms, in the head that was trained on them."""
    calculator = DPA2Calculator(model, head=DIMERS, dtype="float64", mode="reference")
    ends = {}
    for symbol in heads(model)[DIMERS].observed or ():
        pairs = [Atoms([symbol] * 2, [[0, 0, 0], [0, 0, d]]) for d in DISTANCES]
        energy = np.array([row["energy"] for row in calculator.evaluate(pairs, ["energy"])])
        rising = np.diff(energy[: BOND[0] + int(np.argmin(energy[slice(*BOND)])) + 1]) > 0
        ends[symbol] = DISTANCES[np.flatnonzero(rising).max() + 1] if rising.any() else DISTANCES[0]
    worst = sorted(ends, key=lambda symbol: -ends[symbol])[:8]
    shown = ", ".join(f"{symbol} {ends[symbol]:.2f}" for symbol in worst)
    median = np.median(list(ends.values()))
    print(f"\nDimers of {len(ends)} elements repel down to {median:.2f} Å (median); the worst, Å: {shown}", flush=True)


def closest(atoms: Atoms) -> float:
    """Smallest distance over the sum of covalent radii."""
    i, j, d = neighbor_list("ijd", atoms, 3.0)
    return float((d / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])).min(initial=9.0))


def dynamics(model: str, data: Path, steps: int) -> None:
    """Langevin dynamics, 1 fs (0.5 fs with hydrogen)."""
    print("\n| system | head | K | closest approach / covalent radii | in the data |\n|---|---|---:|---:|---:|")
    for system, head, temperature in DYNAMICS:
        frames = read(data / system / "valid.xyz", ":")
        calculator = DPA2Calculator(model, head=head)
        least = 9.0
        for frame in frames[:: max(len(frames) // FRAMES, 1)][:FRAMES]:
            atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, calculator=calculator)
            MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=np.random.default_rng(0))
            step = (0.5 if 1 in atoms.numbers else 1.0) * units.fs
            run = Langevin(
                atoms, step, temperature_K=temperature, friction=0.02 / units.fs, rng=np.random.default_rng(1)
            )
            for _ in range(steps // EVERY):
                run.run(EVERY)
                least = min(least, closest(atoms))
        usual = min(closest(frame) for frame in frames)
        print(f"| {system} | {head} | {temperature} | {least:.2f} | {usual:.2f} |", flush=True)


def main() -> None:
    """Print three tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    crystals(options.model)
    dimers(options.model)
    dynamics(options.model, options.data, options.steps)


if __name__ == "__main__":
    main()
