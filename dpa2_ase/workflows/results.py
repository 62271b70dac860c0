"""What every workflow returns: frozen numbers that can be stored, written to a folder and drawn."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms

from . import plots
from .files import write_json, write_structures

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Base of all results; each names its quantities and their units.

    Attributes
    ----------
    provenance
        The calculator, its parameters and the versions that made the numbers; see `provenance_of`.
    """

    name: ClassVar[str] = "result"

    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers, strings, lists and dictionaries, ready for JSON."""
        return {"workflow": self.name} | {item.name: plain(getattr(self, item.name)) for item in fields(self)}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the result into `ax`, or into a figure of its own; returns the axes.

        Raises
        ------
        NotImplementedError
            For results that are only numbers.
        """
        raise NotImplementedError(f"a result of {self.name} is not drawn; print it or use to_dict()")

    def structures(self) -> dict[str, Atoms]:
        """Structures to be written with the result: file stem → structure."""
        return {item.name: value for item in fields(self) if isinstance(value := getattr(self, item.name), Atoms)}

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``NAME.json``, ``NAME.png`` and ``.svg`` if there is a picture, and structures as extended XYZ.

        Returns the paths written. The folder is made if needed; a file is there whole or not at all.
        """
        base = Path(folder)
        paths = [write_json(base / f"{self.name}.json", self.to_dict())]
        for stem, atoms in self.structures().items():
            paths.append(write_structures(base / f"{self.name}-{stem}.extxyz", atoms))
        if type(self).plot is not Result.plot:
            paths += plots.save(self.plot, base / self.name)
        return paths


def plain(value: Any) -> Any:
    """`value` in terms of what JSON has; arrays become lists, structures dictionaries, complex numbers pairs."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    elif isinstance(value, Result):
        value = value.to_dict()
    elif isinstance(value, Atoms):
        value = _plain_structure(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    elif isinstance(value, complex):
        value = [value.real, value.imag]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _plain_structure(atoms: Atoms) -> dict[str, Any]:
    return {
        "symbols": atoms.get_chemical_symbols(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def provenance_of(calc: Any, **settings: Any) -> dict[str, Any]:
    """What made a result: calculator, settings, versions and the time, as plain data.

    Read from attributes that ASE calculators have (``name``, ``parameters``) or may have (``source``: where a model
    came from; ``mixer`` or ``calcs``: the parts of a sum). Nothing is imported for it.
    """
    loaded = [name for name in ("torch", "phonopy", "dftd3") if name in sys.modules]
    modules = ["ase", "numpy", "scipy", type(calc).__module__.partition(".")[0], *loaded]
    return {
        "calculator": describe_calculator(calc),
        "settings": plain(settings),
        "versions": {"python": sys.version.split()[0]} | {name: _version(name) for name in dict.fromkeys(modules)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe_calculator(calc: Any) -> dict[str, Any]:
    """Class, name and parameters of a calculator, and those of its parts, as plain data."""
    kind = type(calc)
    found: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    for name in ("name", "parameters", "source"):
        value = getattr(calc, name, None)
        if value:
            found[name] = plain(dict(value) if hasattr(value, "keys") else value)
    parts = getattr(getattr(calc, "mixer", calc), "calcs", None)
    if parts:
        found["parts"] = [describe_calculator(part) for part in parts]
    return found


@cache
def _version(module: str) -> str | None:
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:  # a package that is distributed under another name, or not installed
        return getattr(sys.modules.get(module), "__version__", None)


def with_calculator(atoms: Atoms) -> Atoms:
    """A copy of `atoms` that has its calculator, so that the input is left as it was.

    Raises
    ------
    ValueError
        For a structure without calculator.
    """
    if atoms.calc is None:
        raise ValueError("the structure has no calculator; set atoms.calc")
    copied = atoms.copy()
    copied.calc = atoms.calc
    return copied
