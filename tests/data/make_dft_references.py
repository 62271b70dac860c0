"""Lattice constants, elastic constants and phonons of DFT (PBE), from the frames of the mlearn benchmark.

    python tests/data/make_dft_references.py FRAMES.xyz [FRAMES.xyz ...]

writes ``dft-references.json`` beside this file. The frames are those of https://github.com/materialsvirtuallab/mlearn
(Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020); VASP, PBE, 520 eV; BSD-3-Clause) in extended XYZ, with ``energy``,
``forces`` and ``stress`` in ASE's units.

- Elastic constants: slopes of the stress of perfect crystals strained by up to 4 percent along one axis or by one
  shear, whose atoms were not relaxed (``clamped``; for fcc and bcc that is the same). The lattice constant is where the
  pressure of the unstrained crystal, divided by the bulk modulus, says.
- Phonons: force constants fitted by symfc (https://doi.org/10.1103/PhysRevB.110.214117) to the 25 frames of molecular
  dynamics closest to the perfect crystal, at the lattice constant given with them. They are those of a crystal at a
  few hundred K: compare within the residual of the fit, 0.1 to 0.3 of the forces, which changes frequencies by 0.05.

Needs symfc and phonopy.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.geometry import find_mic
from ase.io import read
from ase.units import GPa
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from symfc import Symfc

LATTICES = {"Ni": "fcc", "Cu": "fcc", "Li": "bcc", "Mo": "bcc", "Si": "diamond", "Ge": "diamond"}
REPEATS = {"fcc": (3,), "bcc": (1, 3), "diamond": (2,)}
PRIMITIVE = {"fcc": "F", "bcc": "I", "diamond": "F"}
POINTS = {
    "fcc": {"X": (0.5, 0.5, 0.0), "L": (0.5, 0.5, 0.5)},
    "bcc": {"H": (0.5, -0.5, 0.5), "N": (0.0, 0.0, 0.5), "P": (0.25, 0.25, 0.25)},
    "diamond": {"Γ": (0.0, 0.0, 0.0), "X": (0.5, 0.5, 0.0), "L": (0.5, 0.5, 0.5)},
}


def elastic_constants(frames: list[Atoms], lattice: str, symbol: str) -> dict[str, float]:
    """From the frames that are a perfect crystal under one strain."""
    for repeat in REPEATS[lattice]:
        n_atoms = len(bulk(symbol, lattice, a=1.0, cubic=True)) * repeat**3
        cells = [atoms for atoms in frames if len(atoms) == n_atoms and _is_perfect(atoms, repeat)]
        lengths = [atoms.cell.lengths()[axis] / repeat for atoms in cells for axis in range(3)]
        values, counts = np.unique(np.round(lengths, 4), return_counts=True)
        if not cells:
            continue
        a = np.mean([x for x in lengths if abs(x - values[counts.argmax()]) < 1e-3])
        found = _slopes(cells, a, repeat)
        if found is not None:
            return found
    raise ValueError(f"no strained crystals of {symbol}")


def _is_perfect(atoms: Atoms, repeat: int) -> bool:
    places = (atoms.get_scaled_positions() - atoms.get_scaled_positions()[0]) * 4 * repeat
    return bool(np.abs(places - np.rint(places)).max() < 0.07)  # those of Mo are rattled by 0.03 Å


def _slopes(cells: list[Atoms], a: float, repeat: int) -> dict[str, float] | None:
    along: list[tuple[float, float, float]] = []
    sheared: list[tuple[float, float]] = []
    for atoms in cells:
        strain = atoms.cell.array / (a * repeat) - np.eye(3)
        stress = atoms.get_stress() / GPa
        diagonal, rest = np.diag(strain), strain - np.diag(np.diag(strain))
        axis = int(np.abs(diagonal).argmax())
        others = np.delete(diagonal, axis)
        if np.abs(rest).max() < 1e-4 and np.abs(others).max() < 1e-4 and abs(diagonal[axis]) < 0.045:
            along.append((diagonal[axis], stress[axis], np.delete(stress[:3], axis).mean()))
        elif np.abs(diagonal).max() < 3e-3 and (np.abs(rest) > 1e-4).sum() == 1 and np.abs(rest).max() < 0.045:
            # the frames of Mo, Ni and Cu have yz and xz exchanged; a cubic crystal is stressed where it is sheared
            sheared.append((rest.sum(), max(stress[3:], key=abs)))
    if len(along) < 6 or len(sheared) < 6:
        return None
    strains, own, other = np.array(along).T
    c11, tension = np.polyfit(strains, own, 3)[2:]
    c12 = np.polyfit(strains, other, 3)[2]
    shear, stress = np.array(sheared).T
    c44 = float(shear @ stress / (shear @ shear))
    scatter = np.sqrt(((stress - c44 * shear) ** 2).mean() / (stress**2).mean())
    lattice_constant = a * (1 - tension / (c11 + 2 * c12))
    known = {"lattice_constant": lattice_constant, "c11": c11, "c12": c12}
    return known | ({"c44_clamped": c44} if scatter < 0.05 else {})  # those of Li scatter more than they say


def aligned(atoms: Atoms, ideal: Atoms, sites: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Displacements and forces (N, 3) in the order of `ideal`; ``None`` for a crystal one cannot recognize.

    Frames have any origin: one of the first atoms is on one of `sites`, nearly.
    """
    for origin, site in product(range(6), sites):
        positions = atoms.positions - atoms.positions[origin] + ideal.positions[site]
        for _ in range(4):
            vectors, lengths = find_mic((positions[:, None] - ideal.positions).reshape(-1, 3), ideal.cell)
            nearest = lengths.reshape(len(atoms), -1).argmin(axis=1)
            if len({*nearest}) < len(atoms):
                break
            moved = vectors.reshape(len(atoms), len(atoms), 3)[np.arange(len(atoms)), nearest]
            positions = positions - moved.mean(axis=0)
        else:
            order = np.argsort(nearest)
            return (moved - moved.mean(axis=0))[order], atoms.get_forces()[order]
    return None


def phonons(frames: list[Atoms], lattice: str, symbol: str, near: float) -> dict[str, Any]:
    """From the trajectory whose lattice constant is closest to `near`."""
    repeat = REPEATS[lattice][-1]
    unit = bulk(symbol, lattice, a=1.0, cubic=True)
    groups: dict[tuple[float, ...], list[Atoms]] = {}
    for atoms in frames:
        if len(atoms) == len(unit) * repeat**3:
            groups.setdefault(tuple(np.round(atoms.cell.cellpar(), 3)), []).append(atoms)
    runs = [run for run in groups.values() if len(run) > 10]
    run = min(runs, key=lambda run: abs(run[0].cell.lengths().mean() / repeat - near))
    a = float(run[0].cell.lengths().mean() / repeat)
    cell = PhonopyAtoms(symbols=unit.symbols, cell=a * np.eye(3), scaled_positions=unit.get_scaled_positions())
    phonon = Phonopy(cell, supercell_matrix=repeat * np.eye(3, dtype=int), primitive_matrix=PRIMITIVE[lattice])
    supercell = phonon.supercell
    ideal = Atoms(supercell.symbols, cell=supercell.cell, scaled_positions=supercell.scaled_positions, pbc=True)
    pairs = [pair for atoms in run if (pair := aligned(atoms, ideal, (0, repeat**3))) is not None]
    pairs = sorted(pairs, key=lambda pair: np.linalg.norm(pair[0]))[:25]
    displacements, forces = (np.array(values) for values in zip(*pairs, strict=True))
    phonon.force_constants = Symfc(supercell, displacements=displacements, forces=forces).run(2).force_constants[2]
    home = phonon.primitive.p2s_map
    rest = forces[:, home] + np.einsum("ijab,njb->nia", phonon.force_constants, displacements)
    frequencies = {}
    for name, point in POINTS[lattice].items():
        phonon.run_qpoints([point])
        frequencies[name] = np.round(phonon.qpoints.frequencies[0], 2).tolist()
    return {
        "lattice_constant": round(a, 4),
        "amplitude": round(float(np.sqrt((displacements**2).mean())), 3),
        "residual": round(float(np.sqrt((rest**2).mean() / (forces**2).mean())), 2),
        "points": POINTS[lattice],
        "frequencies": frequencies,
    }


def main() -> None:
    frames = [atoms for path in sys.argv[1:] for atoms in read(path, ":")]
    found: dict[str, Any] = {
        "origin": "fitted by make_dft_references.py to frames of https://github.com/materialsvirtuallab/mlearn "
        "(Y. Zuo et al., J. Phys. Chem. A 124, 731 (2020), https://doi.org/10.1021/acs.jpca.9b08723): VASP, PBE",
        "licence": "BSD-3-Clause",
        "units": {"lattice_constant": "Å", "c11, c12, c44_clamped": "GPa", "amplitude": "Å", "frequencies": "THz"},
        "elements": {},
    }
    for symbol, lattice in LATTICES.items():
        own = [atoms for atoms in frames if {*atoms.symbols} == {symbol}]
        constants = elastic_constants(own, lattice, symbol)
        found["elements"][symbol] = {
            "lattice": lattice,
            **{name: round(float(value), 4 if name == "lattice_constant" else 1) for name, value in constants.items()},
            "phonons": phonons(own, lattice, symbol, constants["lattice_constant"]),
        }
    path = Path(__file__).with_name("dft-references.json")
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
