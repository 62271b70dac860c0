"""Look at labelled frames before a training: what is broken, what looks wrong, what lies far out."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.units import GPa

from ...neighbors import build_neighbor_list
from .frames import Frame
from .work import WorkTest, work_tests

Kind = Literal[
    "shape",
    "not-finite",
    "unknown-element",
    "no-labels",
    "duplicate",
    "net-force",
    "large-force",
    "large-pressure",
    "short-distance",
    "energy-outlier",
    "units",
    "stress-sign",
]
BROKEN: frozenset[Kind] = frozenset({"shape", "not-finite", "unknown-element", "no-labels"})


@dataclass(frozen=True)
class Limits:
    """From where on a frame is listed."""

    net_force: float = 0.005  # eV/Å per atom, length of the sum of forces over the number of atoms
    force: float = 30.0  # eV/Å, length of the force on an atom
    pressure: float = 100.0  # GPa, absolute value of a third of the trace
    distance: float = 0.55  # distance of two atoms over the sum of their covalent radii
    energy: float = 2.0  # eV/atom, distance from the sum of atomic energies fitted to all frames
    same: float = 1e-6  # Å, up to which frames are duplicates


@dataclass(frozen=True)
class Finding:
    """One remark about one frame, or about all (``frame`` is None)."""

    kind: Kind
    frame: int | None
    text: str


@dataclass(frozen=True)
class Report:
    """All that `check_frames` found."""

    n_frames: int
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to say."""
        return not self.findings

    def frames(self, kinds: Iterable[Kind] | None = None) -> list[int]:
        """Numbers of the frames with a finding of one of `kinds` (all kinds if not given)."""
        chosen = None if kinds is None else set(kinds)
        return sorted({f.frame for f in self.findings if f.frame is not None and (chosen is None or f.kind in chosen)})

    def without(self, frames: Sequence[Frame], kinds: Iterable[Kind] = BROKEN) -> list[Frame]:
        """The frames that have no finding of `kinds`."""
        bad = set(self.frames(kinds))
        return [frame for index, frame in enumerate(frames) if index not in bad]

    def text(self, examples: int = 3) -> str:
        """A page to read: every kind with its number of frames and a few examples."""
        if self.is_clean:
            return f"{self.n_frames} frames, nothing to remark"
        lines = [f"{self.n_frames} frames, {len(self.frames())} of them with remarks"]
        counts = Counter(f.kind for f in self.findings)
        for kind, count in counts.items():
            found = [f for f in self.findings if f.kind == kind]
            lines.append(f"{kind}: {count}")
            lines += [
                f"  {'all frames' if f.frame is None else f'frame {f.frame}'}: {f.text}" for f in found[:examples]
            ]
            lines += [f"  … and {count - examples} more"] if count > examples else []
        return "\n".join(lines)

    def csv(self) -> str:
        """All remarks as a table: kind, frame, text; remarks about all frames have no number."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("kind", "frame", "remark"))
        writer.writerows((f.kind, "" if f.frame is None else f.frame, f.text) for f in self.findings)
        return stream.getvalue()


def check_frames(
    frames: Sequence[Frame], type_map: Sequence[str] | None = None, limits: Limits | None = None
) -> Report:
    """Check frames; nothing is changed or left out.

    Parameters
    ----------
    type_map
        Elements the model will know; any if not given.
    limits
        What counts as far out.
    """
    limits = limits or Limits()
    findings: list[Finding] = []
    for index, frame in enumerate(frames):
        findings += [Finding(kind, index, text) for kind, text in _broken(frame, type_map)]
    broken = {f.frame for f in findings}
    sound = [index for index in range(len(frames)) if index not in broken]
    for index in sound:
        findings += [Finding(kind, index, text) for kind, text in _extremes(frames[index], limits)]
    findings += _duplicates(frames, sound, limits.same)
    findings += _energy_outliers(frames, sound, limits.energy)
    findings += _distances(frames, sound, limits.distance)
    findings += [found for test in work_tests([frames[i] for i in sound]) for found in _of_work(test)]
    return Report(len(frames), findings)


def _broken(frame: Frame, type_map: Sequence[str] | None) -> list[tuple[Kind, str]]:
    n = len(frame)
    shapes = {"positions": (n, 3), "forces": (n, 3), "cell": (3, 3), "virial": (3, 3), "atomic_energies": (n,)}
    found: list[tuple[Kind, str]] = []
    for name, shape in shapes.items():
        value = getattr(frame, name)
        if value is not None and np.shape(value) != shape:
            found.append(("shape", f"{name} has shape {np.shape(value)}, {shape} was expected"))
        elif value is not None and not np.isfinite(value).all():
            found.append(("not-finite", f"{name} holds numbers that are not finite"))
    for name in ("energy", "weight"):
        value = getattr(frame, name)
        if value is not None and not np.isfinite(value):
            found.append(("not-finite", f"the {name} is {value}"))
    if frame.is_periodic and frame.cell is None:
        found.append(("shape", "a periodic frame without a cell"))
    elif frame.is_periodic and abs(np.linalg.det(np.asarray(frame.cell, dtype=float))) < 1e-3 and all(frame.pbc):
        found.append(("shape", "the cell has no volume"))
    unknown = sorted(set(frame.symbols) - set(type_map)) if type_map is not None else []
    if unknown:
        found.append(("unknown-element", f"{', '.join(unknown)} are not in the type map {list(type_map or ())}"))
    if all(getattr(frame, label) is None for label in ("energy", "forces", "virial", "atomic_energies")):
        found.append(("no-labels", "there is neither an energy nor forces"))
    return found


def _extremes(frame: Frame, limits: Limits) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    if frame.forces is not None and len(frame):
        net = float(np.linalg.norm(frame.forces.sum(axis=0)))
        if net / len(frame) > limits.net_force:
            found.append(("net-force", f"the forces sum up to {net:.3g} eV/Å ({net / len(frame):.2g} per atom)"))
        largest = float(np.linalg.norm(frame.forces, axis=1).max())
        if largest > limits.force:
            found.append(("large-force", f"a force of {largest:.3g} eV/Å"))
    if frame.stress is not None:
        pressure = -float(frame.stress[:3].mean()) / GPa
        if abs(pressure) > limits.pressure:
            found.append(("large-pressure", f"a pressure of {pressure:.4g} GPa"))
    return found


def _duplicates(frames: Sequence[Frame], sound: Sequence[int], same: float) -> list[Finding]:
    seen: dict[tuple[object, ...], int] = {}
    found = []
    for index in sound:
        frame = frames[index]
        cell = frame.cell if frame.cell is not None and frame.is_periodic else np.zeros((3, 3))
        geometry = np.round(np.vstack([frame.positions, cell]) / same).astype(np.int64)
        first = seen.setdefault((frame.symbols, frame.pbc, geometry.tobytes()), index)
        if first != index:
            labels = "the same" if frame.energy == frames[first].energy else "another"
            found.append(Finding("duplicate", index, f"the structure of frame {first}, with {labels} energy"))
    return found


def _energy_outliers(frames: Sequence[Frame], sound: Sequence[int], limit: float) -> list[Finding]:
    """Energies far from the best sum of atomic energies, by least absolute residuals."""
    chosen = [i for i in sound if frames[i].energy is not None]
    elements = sorted({s for i in chosen for s in frames[i].symbols})
    if len(chosen) <= len(elements):
        return []
    counts = np.array([[frames[i].symbols.count(s) for s in elements] for i in chosen], dtype=float)
    energies = np.array([frames[i].energy for i in chosen], dtype=float)
    n_atoms = counts.sum(axis=1)
    weight = 1 / n_atoms
    for _ in range(20):
        root = np.sqrt(weight)
        fitted = counts @ np.linalg.lstsq(counts * root[:, None], energies * root, rcond=None)[0]
        residual = (energies - fitted) / n_atoms
        weight = 1 / n_atoms**2 / np.maximum(np.abs(residual), 1e-3)
    return [
        Finding("energy-outlier", i, f"the energy is {r:+.3g} eV/atom away from a fit of atomic energies to all frames")
        for i, r in zip(chosen, residual, strict=True)
        if abs(r) > limit
    ]


def _distances(frames: Sequence[Frame], sound: Sequence[int], limit: float) -> list[Finding]:
    """Shortest distances, and what all of them together say of the unit."""
    found, ratios = [], []
    for index in sound:
        shortest = _shortest(frames[index])
        if shortest is None:
            continue
        ratio, distance, pair = shortest
        ratios.append(ratio)
        if ratio < limit:
            found.append(Finding("short-distance", index, f"{pair} at {distance:.3g} Å"))
    if len(ratios) >= 3 and not 0.6 < float(np.median(ratios)) < 1.6:
        text = (
            f"nearest atoms are typically {np.median(ratios):.2f} sums of covalent radii apart; are positions and "
            "cells in Å? (1.9 would be Bohr, 0.1 nanometers)"
        )
        found.append(Finding("units", None, text))
    return found


def _shortest(frame: Frame) -> tuple[float, float, str] | None:
    """Smallest distance over the sum of covalent radii, the distance in Å, and the pair; of real elements only."""
    from ase import Atoms

    numbers = np.array([atomic_numbers.get(s, 0) for s in frame.symbols])
    if len(frame) == 0 or not numbers.all():
        return None
    atoms = Atoms(numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    radii = covalent_radii[numbers]
    for reach in (1.2, 2.2):
        center, neighbor, vectors, _ = build_neighbor_list(atoms, 2 * reach * float(radii.max())).pairs(atoms)
        if len(center):
            distances = np.linalg.norm(vectors, axis=1)
            ratio = distances / (radii[center] + radii[neighbor])
            best = int(ratio.argmin())
            pair = f"{frame.symbols[center[best]]}-{frame.symbols[neighbor[best]]}"
            return float(ratio[best]), float(distances[best]), pair
    return None


_RATIOS = {
    27.2: "Hartree beside eV",
    0.0367: "Hartree beside eV",
    23.06: "kcal/mol beside eV",
    0.0434: "kcal/mol beside eV",
    96.5: "kJ/mol beside eV",
    0.01036: "kJ/mol beside eV",
    0.529: "Bohr beside Å",
    1.89: "Bohr beside Å",
    51.4: "Hartree and Bohr beside eV and Å",
    0.01945: "Hartree and Bohr beside eV and Å",
    0.00624: "GPa beside eV/Å³",
    0.000624: "kbar beside eV/Å³",
}


def _of_work(test: WorkTest) -> list[Finding]:
    if test.is_consistent:
        return []
    what = f"between {test.n_pairs} pairs of similar frames, energies change by {test.slope:.3g} times the work of the"
    near = min(_RATIOS, key=lambda ratio: abs(np.log(max(abs(test.slope), 1e-9) / ratio)))
    reason = f"{_RATIOS[near]}?" if abs(np.log(max(abs(test.slope), 1e-9) / near)) < 0.2 else "check their units"
    reason = "they have the wrong sign" if test.slope < -0.5 else reason
    kind: Kind = "stress-sign" if test.quantity == "stress" and test.slope < 0 else "units"
    return [Finding(kind, None, f"{what} {test.quantity}; {reason}")]
