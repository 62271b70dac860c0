"""`Frame`: one labelled structure, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

if TYPE_CHECKING:
    from ase import Atoms

RESULT = "results_"  # prefix of calculator results that are no label of ours: dipole, magmoms, free_energy ...


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure of N atoms and the labels that exist; what is absent is ``None``.

    `equals` compares two frames.
    """

    symbols: tuple[str, ...]  # names of the type map, chemical elements as a rule
    positions: np.ndarray  # (N, 3) Å
    cell: np.ndarray | None = None  # (3, 3) Å, rows are lattice vectors
    pbc: tuple[bool, bool, bool] = (False, False, False)
    energy: float | None = None  # eV
    forces: np.ndarray | None = None  # (N, 3) eV/Å
    virial: np.ndarray | None = None  # (3, 3) eV, minus stress times volume
    atomic_energies: np.ndarray | None = None  # (N,) eV
    force_weights: np.ndarray | None = None  # (N,) DeePMD-kit's atom_pref
    fparam: np.ndarray | None = None  # (numb_fparam,)
    aparam: np.ndarray | None = None  # (N, numb_aparam)
    weight: float | None = None  # factor of everything this frame adds to a loss; 1 if not given
    info: Mapping[str, Any] = field(default_factory=dict)  # whatever else is known of the frame
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # and of its atoms, first axis N

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def is_periodic(self) -> bool:
        """Whether any direction repeats."""
        return any(self.pbc)

    @property
    def volume(self) -> float:
        """Volume of the cell, Å³; zero without one."""
        return 0.0 if self.cell is None else float(abs(np.linalg.det(self.cell)))

    @property
    def stress(self) -> np.ndarray | None:
        """ASE's stress (6,), eV/Å³: symmetrized, minus virial over volume; ``None`` without virial or volume."""
        if self.virial is None or not self.volume:
            return None
        return full_3x3_to_voigt_6_stress(-(self.virial + self.virial.T) / 2 / self.volume)

    def equals(self, other: Frame) -> bool:
        """Whether two frames hold the same, to the last bit."""
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return a is not None and b is not None and np.array_equal(np.asarray(a), np.asarray(b))
    return bool(a == b)


@dataclass(frozen=True)
class LabelKeys:
    """Where the labels of an `Atoms` are: keys of ``info`` or ``arrays``; ``None`` takes the calculator's results."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None  # ASE's sign, six or nine numbers, eV/Å³
    virial: str | None = None  # nine numbers, eV
    weight: str | None = None  # factor of the frame in a loss; the entry frame_weight if not given


_OWN_RESULTS = ("energy", "forces", "stress", "energies")
_OWN_ENTRIES = ("virial", "fparam", "aparam", "force_weights")
_WEIGHT = "frame_weight"
_BASIC_ARRAYS = ("numbers", "positions")


def frame_of_atoms(atoms: Atoms, keys: LabelKeys | None = None) -> Frame:
    """The frame an ASE structure stands for.

    Parameters
    ----------
    atoms
        Labels are the results of its calculator as they are stored; nothing is computed.
    keys
        Names of labels that are in ``atoms.info`` or ``atoms.arrays`` instead.

    Raises
    ------
    ValueError
        If a named key is missing or a label has the wrong shape.
    """
    keys = keys or LabelKeys()
    results = dict(getattr(atoms.calc, "results", {}))
    info, arrays = dict(atoms.info), {k: v.copy() for k, v in atoms.arrays.items() if k not in _BASIC_ARRAYS}
    named = {
        label: _take(key, info, arrays)
        for label, key in ((f.name, getattr(keys, f.name)) for f in fields(keys))
        if key is not None
    }
    labels = {name: named.get(name, results.get(name)) for name in ("energy", "forces")}
    for name, value in results.items():
        if name not in _OWN_RESULTS:
            of_atoms = np.ndim(value) > 0 and len(value) == len(atoms) and name not in ("dipole", "polarizability")
            (arrays if of_atoms else info)[RESULT + name] = np.asarray(value) if np.ndim(value) else value
    virial = _virial(atoms, named, results, info)
    entries = {name: arrays.pop(name, None) if name in arrays else info.pop(name, None) for name in _OWN_ENTRIES[1:]}
    weight = named.get("weight", info.pop(_WEIGHT, None))
    n_atoms = len(atoms)
    has_cell = bool(atoms.cell.array.any())
    return Frame(
        symbols=tuple(atoms.get_chemical_symbols()),
        positions=atoms.get_positions(),
        cell=atoms.cell.array.copy() if has_cell else None,
        pbc=tuple(bool(p) for p in atoms.pbc),  # type: ignore[arg-type]  # ASE has three of them
        energy=None if labels["energy"] is None else float(labels["energy"]),
        forces=_shaped(labels["forces"], (n_atoms, 3), "forces"),
        virial=virial,
        atomic_energies=_shaped(results.get("energies"), (n_atoms,), "energies"),
        force_weights=_shaped(entries["force_weights"], (n_atoms,), "force_weights"),
        fparam=_shaped(entries["fparam"], (-1,), "fparam"),
        aparam=_shaped(entries["aparam"], (n_atoms, -1), "aparam"),
        weight=None if weight is None else float(weight),
        info=info,
        arrays=arrays,
    )


def _take(key: str, info: dict[str, Any], arrays: dict[str, Any]) -> Any:
    for source in (info, arrays):
        if key in source:
            return source.pop(key)
    raise ValueError(f"no entry {key!r} in this structure; it has {sorted({*info, *arrays})}")


def _virial(atoms: Atoms, named: Mapping[str, Any], results: Mapping[str, Any], info: dict[str, Any]) -> Any:
    """Virial (3, 3) from a named virial, a stress, or an entry ``virial``, in this order."""
    stored = info.pop("virial", None)
    if named.get("virial") is not None or (stored is not None and "stress" not in named):
        return _shaped(named.get("virial", stored), (3, 3), "virial")
    stress = named.get("stress", results.get("stress"))
    if stress is None:
        return None
    stress = np.asarray(stress, dtype=float)
    full = np.asarray(voigt_6_to_full_3x3_stress(stress) if stress.size == 6 else _shaped(stress, (3, 3), "stress"))
    volume = float(abs(np.linalg.det(atoms.cell.array)))
    if volume == 0:
        raise ValueError("a stress without a cell has no meaning; give the structure a cell or leave the stress out")
    return -full * volume


def _shaped(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray | None:
    if value is None:
        return None
    array = np.array(value, dtype=float)
    try:
        return array.reshape(shape)
    except ValueError:
        raise ValueError(f"{name} has shape {array.shape}; {shape} was expected") from None


def atoms_of_frame(frame: Frame, names: Mapping[str, str] | None = None) -> Atoms:
    """The ASE structure of a frame, labels as results of a `SinglePointCalculator`.

    Parameters
    ----------
    names
        Chemical elements for names of the type map that are none (``{"OW": "O"}``).

    Raises
    ------
    ValueError
        For a name that is not an element.
    """
    from ase import Atoms

    translated = [(names or {}).get(symbol, symbol) for symbol in frame.symbols]
    unknown = sorted({symbol for symbol in translated if symbol not in atomic_numbers})
    if unknown:
        raise ValueError(f"{unknown} are no chemical elements; say which they stand for: names={{{unknown[0]!r}: ...}}")
    atoms = Atoms(translated, frame.positions, cell=frame.cell, pbc=frame.pbc)
    results: dict[str, Any] = {"energy": frame.energy, "forces": frame.forces, "energies": frame.atomic_energies}
    for source, target in ((frame.info, atoms.info), (frame.arrays, atoms.arrays)):
        for name, value in source.items():
            if name.startswith(RESULT):
                results[name.removeprefix(RESULT)] = value
            else:
                target[name] = value.copy() if isinstance(value, np.ndarray) else value
    if frame.virial is not None:
        atoms.info["virial"] = frame.virial.copy()  # exact, and with what a symmetric stress cannot hold
        results["stress"] = frame.stress if frame.is_periodic else None
    for name in _OWN_ENTRIES[1:]:
        value = getattr(frame, name)
        if value is not None:
            (atoms.info if name == "fparam" else atoms.arrays)[name] = value
    if frame.weight is not None:
        atoms.info[_WEIGHT] = frame.weight
    results = {name: value for name, value in results.items() if value is not None}
    if results:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results.update(results)
    return atoms
