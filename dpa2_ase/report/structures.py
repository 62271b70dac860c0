"""Structures for the page: a picture that needs no script, and data for the viewer of `assets/viewer.js`."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from ase.formula import Formula

from .markup import Html, data_block, element, escape, join
from .pictures import Scene, orientation, picture
from .summaries import MAX_FRAMES, Mode, View
from .tables import thinned

BYTES = 8  # of one atom in one frame: three coordinates of two bytes, in text of base 64
MAX_ATOMS = 20_000  # beyond, turning is no longer smooth
MAX_IMAGES = 400  # atoms of cells for which those on the boundary are repeated, as textbooks draw them
METALS = {
    *range(3, 5), *range(11, 14), *range(19, 32), *range(37, 51), *range(55, 85), *range(87, 119),
}  # fmt: skip


@dataclass
class Budget:
    """Bytes that are left for structures of one page; each may take half of them."""

    left: int = 3_000_000

    def frames(self, n_atoms: int, n_frames: int) -> list[int]:
        """Which frames can be shown; none if not even one."""
        each = BYTES * n_atoms + 200
        count = min(n_frames, MAX_FRAMES, max(self.left // 2 // each, int(each <= self.left)))
        self.left -= count * each
        return thinned(n_frames, count) if count else []


def viewer(view: View, *, name: str, budget: Budget) -> Html:
    """A structure that can be turned, with a slider for frames; without scripts, the picture of the first frame.

    Parameters
    ----------
    view
        What to show.
    name
        Identifier, unique in the page.
    budget
        What is left for structures; it is reduced.

    Raises
    ------
    ValueError
        Without frames, or with another number of labels.
    """
    _check(view)
    largest = max(view.frames, key=len)
    chosen = budget.frames(len(largest), len(view.frames)) if 0 < len(largest) <= MAX_ATOMS else []
    if not chosen:
        reason = "It has no atoms." if not len(largest) else "It is too large to be drawn here."
        return element("figure", _caption(view), element("p", reason, class_="note"), class_="viewer")
    frames = [view.frames[index] for index in chosen]
    labels = [view.labels[index] if view.labels else f"frame {index + 1}" for index in chosen]
    shown = _Shown(frames if view.is_collection else unwrapped(frames), labels, view.is_collection)
    total = max(view.total, len(view.frames))
    what = "structures" if view.is_collection else "frames"
    thin = f"{len(chosen)} of {total:,} {what}, evenly chosen." if len(chosen) < total else ""
    return element(
        "figure",
        _caption(view),
        element("div", picture(shown.scene(0), name, view.heading or "structure"), class_="stage"),
        _legend(view),
        element("p", thin, class_="note") if thin else "",
        data_block(shown.data(view.modes)),
        class_="viewer",
        id=name,
    )


def _check(view: View) -> None:
    if not view.frames:
        raise ValueError("no structure to show")
    if view.labels and len(view.labels) != len(view.frames):
        raise ValueError(f"{len(view.labels)} labels for {len(view.frames)} frames")


def _caption(view: View) -> Html:
    known = escape(f"{len(view.frames):,} structures") if view.is_collection else facts(view.frames[0])
    heading = element("strong", view.heading) if view.heading else ""
    return element("figcaption", heading, " ", element("span", known, class_="facts"))


def facts(atoms: Atoms) -> Html:
    """Formula, number of atoms and lattice in one line."""
    count = Formula(atoms.get_chemical_formula()).count()
    formula = join(join([symbol, element("sub", n) if n > 1 else ""]) for symbol, n in count.items())
    parts = [formula, f"{len(atoms)} atom{'s' if len(atoms) != 1 else ''}"]
    if atoms.cell.rank == 3:
        lattice = atoms.cell.cellpar()
        parts.append(_equal_or_all("abc", [f"{length:.3f}" for length in lattice[:3]], " Å"))
        parts.append(_equal_or_all("αβγ", [f"{angle:.1f}°" for angle in lattice[3:]], ""))
    if not atoms.pbc.all():
        open_axes = [axis for axis, periodic in zip("abc", atoms.pbc, strict=True) if not periodic]
        parts.append("not periodic" if len(open_axes) == 3 else f"not periodic along {', '.join(open_axes)}")
    return join(part if k == 0 else join([" · ", part]) for k, part in enumerate(parts))


def _equal_or_all(names: str, values: list[str], unit: str) -> str:
    """``a = b = c = 3.615 Å`` or ``a, b, c = 3.1, 3.2, 3.3 Å``."""
    if len(set(values)) == 1:
        return f"{' = '.join(names)} = {values[0]}{unit}"
    return f"{', '.join(names)} = {', '.join(values)}{unit}"


def _legend(view: View) -> Html:
    """Elements, and how many atoms are of each if that is the same in all frames."""
    counts = Counter(number for atoms in view.frames[: None if view.is_collection else 1] for number in atoms.numbers)
    items = []
    for number, count in sorted(counts.items()):
        dot = element("span", class_="dot", style=f"background:{color_of(number)}")
        items.append(element("li", dot, chemical_symbols[number], "" if view.is_collection else _light(f" {count}")))
    return element("ul", *items, class_="legend")


def _light(text: str) -> Html:
    return element("span", text, class_="count")


def color_of(number: int) -> str:
    """Jmol's color of an element."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in jmol_colors[number])


def unwrapped(frames: Sequence[Atoms]) -> list[Atoms]:
    """Copies whose atoms stay near the cell: one that went far out comes back in, and stays until it went far again."""
    found, shift = [], np.zeros((len(frames[0]), 3))
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        if atoms.cell.rank == 3 and atoms.pbc.any():
            place = atoms.cell.scaled_positions(atoms.positions) + shift
            far = ((place < -0.25) | (place > 1.25)) & atoms.pbc
            shift = shift - np.where(far, np.floor(place), 0.0)
            atoms.positions = atoms.positions + shift @ atoms.cell.array
        found.append(atoms)
    return found


def boundary_images(atoms: Atoms) -> np.ndarray:
    """Atoms on faces, edges and corners of the cell as often as textbooks draw them: rows of index and shift (M, 4)."""
    rows: list[tuple[int, int, int, int]] = []
    if atoms.cell.rank == 3 and len(atoms) <= MAX_IMAGES:
        place = atoms.cell.scaled_positions(atoms.positions)
        lower, upper = (np.abs(place) < 0.01) & atoms.pbc, (np.abs(place - 1) < 0.01) & atoms.pbc
        for index in np.flatnonzero((lower | upper).any(axis=1)):
            choices = [(0, 1) if lower[index, k] else (0, -1) if upper[index, k] else (0,) for k in range(3)]
            rows += [(int(index), *shift) for shift in product(*choices) if any(shift)]  # type: ignore[misc]
    return np.array(rows, dtype=int).reshape(-1, 4)


@dataclass(frozen=True)
class _Shown:
    """Frames of the same atoms, or a collection of structures."""

    frames: Sequence[Atoms]
    labels: Sequence[str]
    is_collection: bool

    @property
    def species(self) -> list[int]:
        """Atomic numbers of all elements, ascending."""
        return sorted({number for atoms in self.frames for number in atoms.numbers.tolist()})

    def scene(self, index: int) -> Scene:
        """What is drawn of a frame."""
        atoms, species = self.frames[index], self.species
        return Scene(
            positions=atoms.positions,
            kinds=np.searchsorted(species, atoms.numbers),
            colors=[color_of(number) for number in species],
            radii=np.array([covalent_radii[number] for number in species]),
            cell=atoms.cell.array if atoms.cell.rank == 3 else None,
            images=boundary_images(atoms),
            bonds=not METALS.issuperset(species),
            rotation=orientation(atoms),
        )

    def data(self, modes: Sequence[Mode]) -> dict[str, Any]:
        """For the viewer; what all frames share stands once.

        Positions are 16-bit steps between their extremes: for 50 Å, steps of 0.001 Å. Modes have 8 bits.
        """
        first = self.scene(0)
        scenes = [self.scene(index) for index in range(len(self.frames))] if self.is_collection else [first]
        positions = np.concatenate([atoms.positions for atoms in self.frames])
        low = positions.min(axis=0)
        step = max(float(np.ptp(positions, axis=0).max()) / 65535, 1e-6)
        cells = [atoms.cell.array.round(5).ravel().tolist() if atoms.cell.rank == 3 else None for atoms in self.frames]
        return {
            "symbols": [chemical_symbols[number] for number in self.species],
            "colors": first.colors,
            "radii": first.radii.tolist(),
            "kinds": _text(np.concatenate([scene.kinds for scene in scenes]).astype("<u1")),
            "sizes": list(map(len, self.frames)),
            "low": low.tolist(),
            "step": step,
            "positions": _text(np.rint((positions - low) / step).astype("<u2")),
            "labels": list(map(str, self.labels)),
            "cells": cells[:1] if all(cell == cells[0] for cell in cells) else cells,
            "images": [scene.images.tolist() for scene in scenes],
            "collection": self.is_collection,
            "bonds": first.bonds,
            "modes": [_text(_packed(mode.vectors)) for mode in modes],
            "mode_labels": [mode.label for mode in modes],
            "rotation": first.rotation.round(6).ravel().tolist(),
        }


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _packed(vectors: np.ndarray) -> np.ndarray:
    largest = max(float(np.linalg.norm(vectors, axis=1).max()), 1e-12)
    return np.rint(127 * vectors / largest).astype("i1")
