"""Databases of ASE (``.db``, ``.json``): rows with their key-value pairs and data, which ASE's own reader leaves out.

What a row has no place for (arrays beside ASE's own, energies of atoms) is in its data under names of ours.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

SUFFIXES = (".db", ".json")
_ARRAYS, _RESULTS = "dpa2_ase_arrays", "dpa2_ase_results"
_ARRAYS_OF_ROWS = ("numbers", "positions", "initial_magmoms", "initial_charges", "tags", "masses", "momenta")
_RESULTS_OF_ROWS = ("energy", "forces", "stress", "free_energy", "dipole", "magmom", "magmoms", "charges")


def read_database(path: Path, index: str = ":") -> list[Atoms]:
    """Rows by an index as ASE writes it, or by a query; key-value pairs and data are entries of ``info``."""
    from ase.db import connect
    from ase.io.formats import string2index

    if not path.stat().st_size:  # SQLite would make a database of it
        raise ValueError("the file is empty")
    with connect(path, serial=True) as database:
        chosen = string2index(index)
        if isinstance(chosen, str):
            return [_structure(row) for row in database.select(chosen)]
        rows = list(database.select())
        return [_structure(row) for row in (rows[chosen] if isinstance(chosen, slice) else [rows[chosen]])]


def _structure(row: object) -> Atoms:
    atoms: Atoms = row.toatoms()  # type: ignore[attr-defined]  # ASE has no types
    data = dict(row.data)  # type: ignore[attr-defined]
    arrays, results = data.pop(_ARRAYS, {}), data.pop(_RESULTS, {})
    atoms.info |= {**row.key_value_pairs, **data}  # type: ignore[attr-defined]
    for name, values in arrays.items():
        atoms.set_array(name, values)
    if results:
        atoms.calc = atoms.calc or SinglePointCalculator(atoms)
        atoms.calc.results.update(results)
    return atoms


def write_database(path: Path, structures: Sequence[Atoms], kind: str) -> None:
    """Write a new database of ASE's type `kind`.

    Raises
    ------
    OSError
        If the disk is full or the place cannot be written.
    ValueError
        For entries of ``info`` that are neither plain values nor arrays.
    """
    from ase.db import connect

    try:
        with connect(path, type=kind, serial=True) as database:
            for atoms in structures:
                database.write(atoms, data=_data(atoms))
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
    except (AttributeError, TypeError) as error:  # of ASE's encoders
        raise ValueError(f"an entry of the structures cannot be stored in a database ({error})") from error


def _data(atoms: Atoms) -> dict[str, object]:
    arrays = {name: values for name, values in atoms.arrays.items() if name not in _ARRAYS_OF_ROWS}
    results = getattr(atoms.calc, "results", {})
    rest = {name: value for name, value in results.items() if name not in _RESULTS_OF_ROWS}
    ours = {name: part for name, part in ((_ARRAYS, arrays), (_RESULTS, rest)) if part}
    entries = {name: value.item() if isinstance(value, np.generic) else value for name, value in atoms.info.items()}
    return {**entries, **ours}
