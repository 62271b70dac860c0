"""Everything that needs phonopy or seekpath; imported inside functions only.

Frequencies are in THz, force constants in eV/Å², q-points in units of the primitive cell's reciprocal vectors.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ase import Atoms
from ase.dft.kpoints import parse_path_string
from ase.units import Bohr, Hartree, kJ, mol
from phonopy import Phonopy
from phonopy.file_IO import parse_BORN, write_FORCE_CONSTANTS
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.structure.atoms import PhonopyAtoms

from .phonon_results import Bands, DensityOfStates, Thermal

ACOUSTIC = 0.01  # THz; modes below are translations at Γ, whose free energy at rest diverges


T = TypeVar("T")


@dataclass(frozen=True)
class Leg:
    """A straight line between two special points of the Brillouin zone."""

    labels: tuple[str, str]
    qpoints: np.ndarray  # (Q, 3)


def _made(value: T | None) -> T:
    """What phonopy has after the call before."""
    assert value is not None
    return value


# ---- structures -----------------------------------------------------------------------------------------------------


def make(atoms: Atoms, supercell: np.ndarray, symprec: float) -> Phonopy:
    """A phonopy of the crystal `atoms` with the supercell matrix (3, 3) in phonopy's convention, columns multiply."""
    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "primitive_matrix defaulted to 'auto'")  # asked for here
        return Phonopy(cell, supercell_matrix=supercell, primitive_matrix="auto", symprec=symprec)


def as_atoms(cell: PhonopyAtoms) -> Atoms:
    """The same structure for ASE."""
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, masses=cell.masses, pbc=True)


def displace(phonon: Phonopy, distance: float, *, both_ways: bool) -> np.ndarray:
    """Have phonopy choose the displacements that symmetry leaves; returns them, (D, N, 3) Å."""
    phonon.generate_displacements(distance=distance, is_plusminus=both_ways)
    dataset: Any = _made(phonon.dataset)
    entries = dataset["first_atoms"]
    displacements = np.zeros((len(entries), len(phonon.supercell), 3))
    for row, entry in zip(displacements, entries, strict=True):
        row[entry["number"]] = entry["displacement"]
    return displacements


def set_forces(phonon: Phonopy, forces: np.ndarray) -> None:
    """Force constants from forces (D, N, 3) eV/Å; translations and exchange of atoms made exact."""
    phonon.forces = forces
    phonon.produce_force_constants(show_drift=False)
    phonon.symmetrize_force_constants(show_drift=False)


def set_born(phonon: Phonopy, path: str | Path) -> None:
    """Read a BORN file: Born charges and dielectric constant, which split longitudinal from transverse modes."""
    parameters = parse_BORN(phonon.primitive, filename=path)
    parameters.setdefault("factor", Hartree * Bohr)  # e²/4πε₀ in eV Å, which the file may leave out
    phonon.nac_params = parameters


# ---- what phonopy calculates ----------------------------------------------------------------------------------------


def frequencies(phonon: Phonopy, qpoints: np.ndarray) -> np.ndarray:
    """Frequencies (Q, B)."""
    phonon.run_qpoints(qpoints)
    return np.array(_made(phonon.qpoints).frequencies)


def dynamical_matrices(phonon: Phonopy, qpoints: np.ndarray) -> np.ndarray:
    """Dynamical matrices (Q, B, B) in eV/(Å² u)."""
    phonon.run_qpoints(qpoints, with_dynamical_matrices=True)
    return np.array(_made(phonon.qpoints).dynamical_matrices)


def displaced_along(phonon: Phonopy, qpoint: np.ndarray, branch: int, amplitude: float) -> Atoms:
    r"""The smallest supercell that holds a mode, displaced along it by at most `amplitude` (Å).

    .. math:: u_{jl} \propto \mathrm{Re}\, m_j^{-1/2} e_j \exp(2 \pi i\, q \cdot x_{jl})

    with x in units of the primitive vectors.
    """
    repeats = [next((n for n in range(1, 13) if abs(n * x - round(n * x)) < 1e-6), None) for x in qpoint]
    if None in repeats:
        raise ValueError(f"no supercell of up to 12 repetitions holds a wave of q = {qpoint.tolist()}")
    phonon.run_qpoints(qpoint[None], with_eigenvectors=True)
    mode = np.array(_made(_made(phonon.qpoints).eigenvectors))[0][:, branch].reshape(-1, 3)  # (N, 3)
    primitive = as_atoms(phonon.primitive)
    atoms = primitive.repeat(repeats)
    x = np.linalg.solve(primitive.cell.array.T, atoms.positions.T).T
    wave = np.tile(mode, (len(atoms) // len(mode), 1)) * np.exp(2j * np.pi * x @ qpoint)[:, None]
    wave /= np.sqrt(atoms.get_masses())[:, None]
    shift = (wave * np.exp(-0.5j * np.angle((wave**2).sum()))).real  # the phase with the largest displacements
    atoms.positions += shift * (amplitude / np.linalg.norm(shift, axis=1).max())
    return atoms


def commensurate_points(phonon: Phonopy) -> np.ndarray:
    """The q-points (Q, 3) whose waves fit into the supercell; their frequencies are not interpolated."""
    matrix = np.rint(np.linalg.inv(phonon.primitive.primitive_matrix)).astype(int)
    return np.array(get_commensurate_points(matrix))


def mesh(phonon: Phonopy, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Irreducible q-points (Q, 3), their weights (Q,) and frequencies (Q, B); spacing 2π / `length` in Å."""
    phonon.run_mesh(length)
    found: Any = _made(phonon.mesh)
    return np.array(found.qpoints), np.array(found.weights), np.array(found.frequencies)


def thermal(phonon: Phonopy, length: float, temperatures: np.ndarray) -> Thermal:
    """Harmonic thermal properties on a mesh; imaginary modes are left out."""
    phonon.run_mesh(length)
    phonon.run_thermal_properties(temperatures=temperatures, cutoff_frequency=ACOUSTIC)
    kelvin, free_energy, entropy, heat_capacity = _made(_made(phonon.thermal_properties).thermal_properties)
    joule = kJ / 1000 / mol  # J/mol in eV
    return Thermal(
        temperatures=np.array(kelvin),
        free_energy=np.array(free_energy) * kJ / mol,
        entropy=np.array(entropy) * joule,
        heat_capacity=np.array(heat_capacity) * joule,
        n_atoms=len(phonon.primitive),
    )


def density_of_states(phonon: Phonopy, length: float) -> DensityOfStates:
    """Tetrahedron densities of states of every atom of the primitive cell, and their sum."""
    phonon.run_mesh(length, with_eigenvectors=True, is_mesh_symmetry=False)
    phonon.run_projected_dos()
    found = _made(phonon.projected_dos)
    projected = np.array(found.projected_dos)
    return DensityOfStates(
        frequencies=np.array(found.frequency_points),
        total=projected.sum(axis=0),
        projected=projected,
        symbols=tuple(phonon.primitive.symbols),
    )


def bands(phonon: Phonopy, points: int) -> Bands:
    """Bands along the special lines of the lattice, `points` of them on the longest."""
    legs = special_lines(phonon, points)
    connected = [a.labels[1] == b.labels[0] for a, b in pairwise(legs)] + [False]
    labels: list[str] = []
    for leg, goes_on in zip(legs, connected, strict=True):
        labels += [leg.labels[0]] if goes_on else [*leg.labels]
    phonon.run_band_structure(
        [leg.qpoints for leg in legs], with_group_velocities=True, path_connections=connected, labels=labels
    )
    found = _made(phonon.band_structure)
    ticks, names, breaks = [0.0], [legs[0].labels[0]], []
    for index, leg in enumerate(legs):
        ticks.append(float(found.distances[index][-1]))
        names.append(leg.labels[1])
        if not connected[index] and index + 1 < len(legs):
            names[-1] += "|" + legs[index + 1].labels[0]
            breaks.append(sum(len(leg.qpoints) for leg in legs[: index + 1]))
    return Bands(
        qpoints=np.concatenate(found.qpoints),
        distances=np.concatenate(found.distances),
        frequencies=np.concatenate(found.frequencies),
        group_velocities=np.concatenate(_made(found.group_velocities)),
        ticks=np.array(ticks),
        labels=tuple(names),
        breaks=tuple(breaks),
    )


def special_lines(phonon: Phonopy, points: int) -> list[Leg]:
    """Lines between special points: seekpath's (https://doi.org/10.1016/j.commatsci.2016.10.015), else ASE's.

    seekpath knows the crystal's symmetry, ASE only that of its lattice (https://doi.org/10.1016/j.commatsci.2010.05.010).
    """
    cell = phonon.primitive
    try:
        from seekpath import get_path_orig_cell
    except ModuleNotFoundError:
        path = as_atoms(cell).cell.bandpath()
        special = path.special_points
        pairs = [pair for piece in parse_path_string(path.path) for pair in pairwise(piece)]
    else:
        found = get_path_orig_cell(cell.totuple())
        special, pairs = found["point_coords"], found["path"]
    reciprocal = np.linalg.inv(cell.cell)
    lengths = [np.linalg.norm(reciprocal @ (np.subtract(special[b], special[a]))) for a, b in pairs]
    legs = []
    for (a, b), length in zip(pairs, lengths, strict=True):
        n = max(2, 1 + round((points - 1) * length / max(lengths)))
        legs.append(Leg((_pretty(a), _pretty(b)), np.linspace(special[a], special[b], n)))
    return legs


def _pretty(label: str) -> str:
    """``GAMMA`` and ``G`` are Γ; digits go below."""
    name = "Γ" if label in ("G", "GAMMA") else label.replace("_", "")
    return name.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


# ---- files ----------------------------------------------------------------------------------------------------------


def save(phonon: Phonopy, folder: Path, *, with_forces: bool) -> list[Path]:
    """Write ``phonopy.yaml`` and ``FORCE_CONSTANTS`` for phonopy's commands, and ``band.yaml`` if there are bands."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(dir=folder) as new:
        settings = {"force_sets": with_forces, "displacements": with_forces, "force_constants": True}
        phonon.save(os.path.join(new, "phonopy.yaml"), settings=settings)
        write_FORCE_CONSTANTS(
            _made(phonon.force_constants), os.path.join(new, "FORCE_CONSTANTS"), p2s_map=phonon.primitive.p2s_map
        )
        if phonon.band_structure is not None:
            phonon.band_structure.write_yaml(filename=os.path.join(new, "band.yaml"))
        for path in sorted(Path(new).iterdir()):
            written.append(path.replace(folder / path.name))
    return written


def supercells(phonons: Sequence[Phonopy]) -> list[Atoms]:
    """All displaced supercells of `phonons`, in order."""
    return [as_atoms(cell) for phonon in phonons for cell in _made(phonon.supercells_with_displacements)]
