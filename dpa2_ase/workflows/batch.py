"""Many structures, one calculator: as one batch where the calculator can, otherwise one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

ALWAYS = ("energy", "forces")

Results = dict[str, Any]


def evaluate(
    structures: Iterable[Atoms],
    calc: Any,
    properties: Sequence[str] = ALWAYS,
    *,
    optional: Sequence[str] = (),
    on_result: Callable[[int, int], None] | None = None,
) -> list[Results]:
    """Calculate `properties` of every structure; the structures are left as they were.

    A calculator with a method ``evaluate(list_of_atoms, list_of_properties)`` that returns one dictionary per
    structure gets all structures at once; any other one gets them in order.

    Parameters
    ----------
    structures
        Any sizes and compositions. Their own calculators are not used, nor are their constraints: forces and
        stresses are the full ones.
    calc
        An ASE calculator.
    properties
        ASE's names, such as ``energy`` (eV), ``forces`` (eV/Å), ``stress`` (eV/Å³, six components).
    optional
        Those of `properties` that may be missing in a result, as the stress of a molecule.
    on_result
        Called with the number of structures done and their total as results arrive; once, for a batch.

    Returns
    -------
    results
        One dictionary per structure, in order, of arrays and numbers of its own.

    Raises
    ------
    TypeError
        For a batch method that does not return what it should.
    PropertyNotImplementedError
        For what the calculator does not calculate.
    """
    frames = list(structures)
    if frames and hasattr(calc, "evaluate"):
        results = _checked(calc.evaluate(frames, list(properties)), len(frames), {*properties} - {*optional})
        if on_result is not None:
            on_result(len(frames), len(frames))
        return results
    results = []
    for atoms in frames:
        results.append(_one(atoms, calc, properties, optional))
        if on_result is not None:
            on_result(len(results), len(frames))
    return results


def _one(atoms: Atoms, calc: Any, properties: Sequence[str], optional: Sequence[str]) -> Results:
    own = atoms.copy()  # calculators keep and compare what they are given
    own.set_constraint()
    own.calc = calc
    getters = {"energy": own.get_potential_energy, "forces": own.get_forces, "stress": own.get_stress}
    results = {}
    for name in sorted(properties, key=lambda name: name != "forces"):  # forces bring the energy with them
        try:
            value = getters[name]() if name in getters else calc.get_property(name, own)
        except PropertyNotImplementedError:
            if name in optional:
                continue
            raise
        results[name] = float(value) if name == "energy" else value.copy() if hasattr(value, "copy") else value
    return results


def _checked(results: Any, count: int, properties: Iterable[str]) -> list[Results]:
    rows = list(results) if isinstance(results, Sequence) else []
    if len(rows) != count or not all(isinstance(row, dict) for row in rows):
        raise TypeError(
            f"the calculator's evaluate() should return a list of {count} dictionaries of results, "
            f"found {type(results).__name__}"
        )
    for index, row in enumerate(rows):
        missing = sorted({*properties} - row.keys())
        if missing:
            raise PropertyNotImplementedError(f"the calculator has no {missing} for structure {index} of the batch")
    return rows
