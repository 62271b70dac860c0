"""Labels of atoms and structures, collected while structures stream by: what a map can be colored by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from .elements import numbers_of
from .layers import fingerprint

if TYPE_CHECKING:
    from ..interfaces.ase import DPA2Calculator
    from .store import Environments

BUILT_IN = ("element", "group", "structure")  # known of all environments
TINY = 1e-8
ENERGY, FORCE_ERROR, DISTANCE = "energy", "force-error", "distance:"
UNCERTAINTIES = {"uncertainty": "energies_uncertainty", "representation-distance": "representation_distance"}


@dataclass(frozen=True)
class Column:
    """A label and how it is found.

    Parameters
    ----------
    name
        What it is called.
    values
        From a few structures to one value per atom, or per structure where `of_atoms` is false.
    of_atoms
        Which of the two; ``None`` if the first structures tell, see `settled`.
    key
        Of what it depends on beside structures and forces, where it is worth keeping on disk.
    """

    name: str
    values: Callable[[Sequence[Atoms]], np.ndarray]
    of_atoms: bool | None = True
    key: str = ""


def column(name: str, calc: DPA2Calculator) -> Column | None:
    """The column a name stands for; ``None`` for what all environments have.

    Parameters
    ----------
    name
        ``"energy"`` (labelled energy per atom, eV, as a sum of element energies fitted to all structures leaves it),
        ``"force-error"`` (length of the difference between forces of `calc` and labelled ones, eV/Å),
        ``"distance:O"`` (to the nearest oxygen, Å), ``"uncertainty"`` (of the energies of atoms by `calc`, eV),
        ``"representation-distance"`` (to known environments, 1 is usual), or the name of an entry of ``atoms.arrays``
        or ``atoms.info`` (``"data_set"``, ``"head"``, ...).
    calc
        The model, for errors and uncertainties.

    Raises
    ------
    ValueError
        Where uncertainties are asked of a calculator without calibration.
    """
    if name in BUILT_IN:
        return None
    if name == ENERGY:
        return Column(name, _energies, of_atoms=False)
    if name == FORCE_ERROR:
        return Column(
            name, lambda part: force_errors(part, calc), key=fingerprint(calc.evaluator.reference, whole=True)
        )
    if name in UNCERTAINTIES:
        result = UNCERTAINTIES[name]
        if result not in calc.implemented_properties:
            raise ValueError(
                f"{name!r} needs a calibration: dpa2 calibrate, then DPA2Calculator(..., uncertainty=True)"
            )
        return Column(name, lambda part: np.concatenate([r[result] for r in calc.evaluate(part, [result])]))
    if name.startswith(DISTANCE):
        symbol = name.removeprefix(DISTANCE)
        number = int(numbers_of([symbol])[0])
        return Column(name, lambda part: np.concatenate([distances_to(a, a.numbers == number) for a in part]))
    return Column(name, lambda part: _entries(part, name), of_atoms=None)


def settled(column: Column, first: Sequence[Atoms]) -> Column:
    """The column, of atoms or of structures: where the first structures have such an array, every atom has a value."""
    if column.of_atoms is not None:
        return column
    if not any(column.name in atoms.arrays for atoms in first):
        return replace(column, of_atoms=False)
    return replace(column, of_atoms=True, values=lambda part: _arrays(part, column.name))


def _arrays(part: Sequence[Atoms], name: str) -> np.ndarray:
    """An array of atoms, where there is none an entry of info repeated for all atoms."""
    found = [np.asarray(a.arrays[name]) if name in a.arrays else np.repeat(_entries([a], name), len(a)) for a in part]
    if any(array.ndim != 1 for array in found):
        raise ValueError(f"{name!r} has several numbers per atom; a label is one number or text")
    return merged(found)


def _entries(part: Sequence[Atoms], name: str) -> np.ndarray:
    found: list[Any] = [atoms.info.get(name) for atoms in part]
    if any(isinstance(value, str | bool | np.bool_) for value in found):
        return np.array(["" if value is None else str(value) for value in found])
    if all(isinstance(value, int | np.integer) for value in found):
        return np.array(found, dtype=np.int64)
    try:
        return np.array([np.nan if value is None else float(value) for value in found])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is not one number or text per structure: {found[0]!r}") from error


def _energies(part: Sequence[Atoms]) -> np.ndarray:
    return np.array([getattr(atoms.calc, "results", {}).get("energy", np.nan) for atoms in part], dtype=float)


def merged(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts joined; where some are text, missing numbers become empty text."""
    if len({part.dtype.kind == "U" for part in parts}) > 1:
        parts = [
            part if part.dtype.kind == "U" else np.array(["" if np.isnan(v) else f"{v:g}" for v in part.astype(float)])
            for part in parts
        ]
    return np.concatenate(parts)


def force_errors(structures: Sequence[Atoms], calc: DPA2Calculator) -> np.ndarray:
    """Length (N,), eV/Å, of the difference between predicted and labelled forces; nan where none are labelled."""
    labelled = [getattr(atoms.calc, "results", {}).get("forces") for atoms in structures]
    chosen = [atoms for atoms, forces in zip(structures, labelled, strict=True) if forces is not None]
    predicted = iter(calc.evaluate(chosen, ["forces"]))
    errors = [
        np.full(len(atoms), np.nan)
        if forces is None
        else np.linalg.norm(next(predicted)["forces"] - np.asarray(forces), axis=1)
        for atoms, forces in zip(structures, labelled, strict=True)
    ]
    return np.concatenate(errors) if errors else np.zeros(0)


def distances_to(atoms: Atoms, chosen: np.ndarray) -> np.ndarray:
    """Distance (N,) in Å of every atom from the nearest atom of the mask `chosen`, images included; inf without any."""
    from ase.geometry import get_distances

    if not chosen.any():
        return np.full(len(atoms), np.inf)
    _, lengths = get_distances(atoms.positions, atoms.positions[chosen], cell=atoms.cell, pbc=atoms.pbc)
    return lengths.min(axis=1)


def energies_above_elements(environments: Environments) -> np.ndarray:
    """Labelled energy per atom (S,), eV, minus the sum of element energies that fits all structures best.

    Total energies of different elements differ by thousands of eV; what is left shows bonding. Structures without an
    energy get nan, and so do those that alone say what the energy of an element is: nothing is left of them.
    """
    totals = environments.structure_labels[ENERGY].astype(float)
    known, kinds = np.isfinite(totals), np.unique(environments.numbers)
    counts = np.zeros((environments.n_structures, len(kinds)))
    np.add.at(counts, (environments.structure, np.searchsorted(kinds, environments.numbers)), 1.0)
    if not known.any():
        raise ValueError("no structure has a labelled energy; choose another color")
    directions, sizes, _ = np.linalg.svd(counts[known], full_matrices=False)
    alone = (directions[:, sizes > TINY * sizes.max()] ** 2).sum(axis=1) > 1 - TINY
    if alone.all():
        raise ValueError("energies of elements fit these few structures exactly; give more or choose another color")
    per_element = np.linalg.lstsq(counts[known], totals[known], rcond=None)[0]
    above = (totals - counts @ per_element) / environments.sizes.clip(1)
    above[np.flatnonzero(known)[alone]] = np.nan
    return above
