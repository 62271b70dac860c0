"""Extended XYZ with every digit: ASE's own writer keeps eight decimals of an array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_dict_to_str

_KINDS = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S"}


def write_extxyz(path: Path, structures: Sequence[Atoms]) -> None:
    """Write structures with the results of their calculators; ASE reads them back to the last bit."""
    with path.open("w", encoding="utf-8") as stream:
        for atoms in structures:
            stream.writelines(_lines(atoms))


def _lines(atoms: Atoms) -> list[str]:
    results = dict(getattr(atoms.calc, "results", {}))
    columns: dict[str, np.ndarray] = {"species": np.array(atoms.get_chemical_symbols()), "pos": atoms.positions}
    columns |= {name: v for name, v in atoms.arrays.items() if name not in ("numbers", "positions")}
    info: dict[str, Any] = dict(atoms.info)
    for name, value in results.items():
        of_atoms = (
            np.ndim(value) > 0 and len(value) == len(atoms) and name in ("forces", "energies", "magmoms", "charges")
        )
        (columns if of_atoms else info)[name] = np.asarray(value) if of_atoms else value
    if "stress" in info:
        info["stress"] = _full_stress(info["stress"])
    header = {"Properties": ":".join(_property(name, v) for name, v in columns.items()), "pbc": atoms.pbc}
    if atoms.cell.array.any():
        header = {"Lattice": atoms.cell.array.T} | header
    texts = [_texts(v) for v in columns.values()]
    rows = [" ".join(" ".join(column[i]) for column in texts) for i in range(len(atoms))]
    return [f"{len(atoms)}\n", f"{key_val_dict_to_str(header | info)}\n", *(f"{row}\n" for row in rows)]


def _full_stress(stress: Any) -> np.ndarray:
    from ase.stress import voigt_6_to_full_3x3_stress

    values = np.asarray(stress)
    return voigt_6_to_full_3x3_stress(values) if values.size == 6 else values.reshape(3, 3)


def _property(name: str, values: np.ndarray) -> str:
    if values.dtype.kind not in _KINDS or values.ndim > 2:
        raise ValueError(f"the array {name!r} ({values.dtype}, {values.ndim} axes) cannot be written to an extxyz file")
    return f"{name}:{_KINDS[values.dtype.kind]}:{1 if values.ndim == 1 else values.shape[1]}"


def _texts(values: np.ndarray) -> list[list[str]]:
    kind = values.dtype.kind
    shown = repr if kind == "f" else {"b": lambda v: "T" if v else "F"}.get(kind, str)
    rows = values.reshape(len(values), -1).tolist()
    return [[shown(v) for v in row] for row in rows]
