"""Pictures of structures as vector graphics, for readers and printers without scripts.

The viewer of `assets/viewer.js` draws the same: sizes, bonds and orientation are to agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list

from .markup import Html, element, escape, join

SIZE = 360.0  # of the picture, in its own unit
BALL, SPHERE = 0.42, 0.78  # radii of atoms in covalent ones, with bonds and without
BOND = 1.15  # atoms are bound within so many sums of covalent radii
MAX_CIRCLES = 3000  # more than are seen of a large structure


@dataclass(frozen=True)
class Scene:
    """One frame as it is drawn; N atoms, S elements, M images of atoms on the boundary."""

    positions: np.ndarray  # (N, 3) Å
    kinds: np.ndarray  # (N,) index of the element
    colors: list[str]  # (S)
    radii: np.ndarray  # (S,) Å
    cell: np.ndarray | None  # (3, 3) Å
    images: np.ndarray  # (M, 4) index and shift in cells
    bonds: bool
    rotation: np.ndarray  # (3, 3), rows are right, up and toward the reader

    @cached_property
    def all_positions(self) -> np.ndarray:
        """Atoms and images (N + M, 3) in Å."""
        if not len(self.images) or self.cell is None:
            return self.positions
        return np.concatenate([self.positions, self.positions[self.images[:, 0]] + self.images[:, 1:] @ self.cell])

    @cached_property
    def all_kinds(self) -> np.ndarray:
        """Elements (N + M,) of atoms and images."""
        return np.concatenate([self.kinds, self.kinds[self.images[:, 0]]])

    @property
    def corners(self) -> np.ndarray:
        """Of the cell (8, 3), or none."""
        if self.cell is None:
            return np.zeros((0, 3))
        return np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ self.cell


def orientation(atoms: Atoms) -> np.ndarray:
    """From where to look: crystals from the front with c upright, molecules onto their plane, both slightly turned."""
    centered = atoms.positions - atoms.positions.mean(axis=0) if len(atoms) else np.zeros((1, 3))
    if atoms.cell.rank == 3:
        base = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    else:
        base = np.linalg.svd(centered, full_matrices=True)[2]
        base[2] *= np.sign(np.linalg.det(base))
    turn, tilt = np.radians([-22.0, 14.0])
    about_y = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    return about_x @ about_y @ base


def picture(scene: Scene, name: str, label: str) -> Html:
    """Spheres, bonds and the cell's edges, those behind drawn first; `name` makes identifiers unique."""
    points, corners = scene.all_positions @ scene.rotation.T, scene.corners @ scene.rotation.T
    radii = scene.radii[scene.all_kinds] * (BALL if scene.bonds else SPHERE)
    everything = np.concatenate([points - radii[:, None], points + radii[:, None], corners])
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = 0.94 * SIZE / max((high - low)[:2].max(), 1e-3)
    middle = (low + high) / 2

    def place(rows: np.ndarray) -> np.ndarray:
        return np.stack([SIZE / 2 + scale * (rows[:, 0] - middle[0]), SIZE / 2 - scale * (rows[:, 1] - middle[1])], 1)

    seen = _in_front(points, radii)
    drawn = [*_edges(corners, place(corners)), *_bonds(scene, points, place(points), scale)]
    for index in seen:
        x, y = place(points[index : index + 1])[0]
        fill = f"url(#{name}-{scene.all_kinds[index]})"
        circle = element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radii[index] * scale:.1f}", fill=fill)
        drawn.append((points[index, 2], circle))
    drawn.sort(key=lambda item: item[0])
    return element(
        "svg",
        element("defs", *(_gradient(f"{name}-{kind}", color) for kind, color in enumerate(scene.colors))),
        *(shape for _, shape in drawn),
        viewBox=f"0 0 {SIZE:g} {SIZE:g}", role="img", aria_label=label,
    )  # fmt: skip


def _gradient(name: str, color: str) -> Html:
    dark = "#" + "".join(f"{int(int(color[k : k + 2], 16) * 0.45):02x}" for k in (1, 3, 5))
    stops = [("0", "#ffffff"), ("0.35", color), ("0.8", color), ("1", dark)]
    children = join(Html(f'<stop offset="{offset}" stop-color="{escape(tone)}"/>') for offset, tone in stops)
    return Html(
        f'<radialGradient id="{escape(name)}" cx="0.5" cy="0.5" r="0.5" fx="0.34" fy="0.3">{children}</radialGradient>'
    )


def _in_front(points: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Indices of the atoms to draw: of very many, the foremost in every small square."""
    if len(points) <= MAX_CIRCLES:
        return np.arange(len(points))
    order = np.argsort(-points[:, 2])
    extent = np.ptp(points[:, :2], axis=0).max()
    squares = np.floor(points[order, :2] / max(extent / np.sqrt(MAX_CIRCLES), radii.min())).astype(int)
    return order[np.unique(squares, axis=0, return_index=True)[1]]


def _edges(corners: np.ndarray, places: np.ndarray) -> list[tuple[float, Html]]:
    """The cell's edges with their depths; those at the back behind all atoms, the others as deep as their middle."""
    found = []
    for first, second in [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit] if len(corners) else []:
        (x1, y1), (x2, y2) = places[[first, second]]
        line = element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_="edge")
        found.append((float(corners[[first, second], 2].mean()), line))
    return found


def _bonds(scene: Scene, points: np.ndarray, places: np.ndarray, scale: float) -> list[tuple[float, Html]]:
    if not scene.bonds or len(points) > MAX_CIRCLES:
        return []
    radii = scene.radii[scene.all_kinds]
    first, second = primitive_neighbor_list(
        "ij", (False, False, False), np.eye(3), scene.all_positions, BOND * radii, max_nbins=10**5
    )
    found = []
    for i, j in zip(first, second, strict=True):  # each bond twice: each atom draws its half
        end = (places[i] + places[j]) / 2
        line = element(
            "line",
            x1=f"{places[i][0]:.1f}", y1=f"{places[i][1]:.1f}", x2=f"{end[0]:.1f}", y2=f"{end[1]:.1f}",
            stroke=scene.colors[scene.all_kinds[i]], stroke_width=f"{0.22 * scale:.1f}",
        )  # fmt: skip
        found.append((float(0.75 * points[i, 2] + 0.25 * points[j, 2]), line))
    return found
