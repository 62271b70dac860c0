"""Maps drawn for print, with a periodic table for a legend."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from ..workflows import plots
from .elements import color, group, group_color, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .atom_map import AtomMap
    from .selection import Selection
    from .store import Environments

SIZE = (6.4, 7.4)  # inches
MOST_KINDS = 24  # entries of a legend
ABSENT = (0.93, 0.93, 0.93)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue
UNITS = {
    "energy": "energy above elements, eV/atom",
    "force-error": "force error, eV/Å",
    "uncertainty": "uncertainty of the atom's energy, eV",
    "representation-distance": "distance to known environments (1: usual)",
}


def draw_map(atom_map: AtomMap, by: str = "element", *, highlight: np.ndarray | None = None) -> Axes:
    """Points colored by a label.

    Parameters
    ----------
    atom_map
        The points.
    by
        A label; elements and groups come with a periodic table, text with a list, numbers with a color bar.
    highlight
        Mask or numbers of points to ring.
    """
    values = atom_map.label(by)
    is_table = by in ("element", "group") and atom_map.per == "atom"
    if is_table:
        axes = plots.subplots(2, 1, SIZE, height_ratios=[3.2, 1.0])
        _draw_table(axes[1], np.unique(atom_map.numbers if atom_map.numbers is not None else []), by)
    else:
        axes = plots.subplots(1, 1, (SIZE[0], 5.4))
    ax, (x, y) = axes[0], atom_map.coordinates.T
    if atom_map.background is not None:
        ax.scatter(
            atom_map.background[:, 0], atom_map.background[:, 1], s=4, linewidths=0, color="#dddddd", rasterized=True
        )
    order = np.random.default_rng(0).permutation(len(x))  # no kind lies on top of all others
    dots: dict[str, Any] = {"s": _dot_size(len(x)), "linewidths": 0, "rasterized": True}
    if is_table:
        of_kind = {kind: color(_number(kind)) if by == "element" else group_color(kind) for kind in np.unique(values)}
        ax.scatter(x[order], y[order], c=[of_kind[v] for v in values[order]], **dots)
        _name_clusters(ax, atom_map, by, values)
    elif values.dtype.kind in "fiu":
        _draw_numbers(ax, atom_map.coordinates[order], values[order].astype(float), by, dots)
    else:
        _draw_kinds(ax, x[order], y[order], values[order], dots)
    if highlight is not None:
        ax.scatter(x[highlight], y[highlight], s=42, facecolors="none", edgecolors="black", linewidths=1.0)
    ax.set_xlabel(atom_map.axes[0])
    ax.set_ylabel(atom_map.axes[1])
    if atom_map.projection.method != "pca":  # numbers on these axes mean nothing
        ax.set_xticks([])
        ax.set_yticks([])
    return ax


def save_map(atom_map: AtomMap, path: str | Path, by: str = "element", **options: Any) -> Path:
    """Write a picture; the suffix of `path` says which kind (``.png``, ``.svg``, ``.pdf``)."""
    path = Path(path)
    return plots.save(
        lambda: draw_map(atom_map, by, **options), path.with_suffix(""), formats=(path.suffix.removeprefix("."),)
    )[0]


def save_selection(selection: Selection, environments: Environments, path: str | Path) -> Path:
    """Write a picture of all structures (or environments of the elements chosen) with those chosen among them."""
    path = Path(path)
    return plots.save(
        lambda: draw_selection(selection, environments),
        path.with_suffix(""),
        formats=(path.suffix.removeprefix("."),),
    )[0]


def draw_selection(selection: Selection, environments: Environments) -> Axes:
    """Principal components of a data set, the chosen ones numbered in order of choice and colored by score."""
    from .atom_map import make_map

    kinds = np.unique(environments.numbers[selection.chosen] if selection.of_atoms else np.zeros(0, np.int64))
    atom_map = make_map(
        environments,
        "pca",
        per="atom" if selection.of_atoms else "structure",
        only=int(kinds[0]) if len(kinds) == 1 else None,
        include=selection.chosen,
    )
    ax = plots.subplots(1, 1, (SIZE[0], 5.0))[0]
    x, y = atom_map.coordinates.T
    ax.scatter(x, y, s=_dot_size(len(atom_map)), color="#bbbbbb", linewidths=0, rasterized=True)
    x, y = atom_map.coordinates[np.searchsorted(atom_map.rows, selection.chosen)].T
    known = np.isfinite(selection.scores)
    ax.scatter(x[~known], y[~known], s=30, facecolors="none", edgecolors="black")
    if known.any():
        drawn = ax.scatter(x[known], y[known], c=selection.scores[known], s=30, cmap="viridis", edgecolors="black")
        figure: Any = ax.get_figure(root=True)
        figure.colorbar(drawn, ax=ax, label=selection.score_name, shrink=0.8)
    for rank in range(min(len(selection), MOST_KINDS)):
        ax.annotate(str(rank + 1), (x[rank], y[rank]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    ax.set_xlabel(atom_map.axes[0])
    ax.set_ylabel(atom_map.axes[1])
    ax.set_title(f"{selection.what}: {len(selection)} of {environments.n_structures} structures")
    return ax


def _dot_size(n_points: int) -> float:
    return float(np.clip(12000 / max(n_points, 1), 3.0, 22.0))


def _number(symbol: str) -> int:
    return chemical_symbols.index(symbol)


def _name_clusters(ax: Axes, atom_map: AtomMap, by: str, values: np.ndarray) -> None:
    """Write the symbol of every element at the point most in the middle of its points."""
    if by != "element":
        return
    outline = {"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 0.6}
    for symbol in np.unique(values):
        points = atom_map.coordinates[values == symbol]
        middle = points[((points - np.median(points, axis=0)) ** 2).sum(1).argmin()]
        ax.text(middle[0], middle[1], str(symbol), fontsize=7, ha="center", va="center", bbox=outline)


def _draw_table(ax: Axes, present: np.ndarray, by: str) -> None:
    """A periodic table with the elements on the map in their colors."""
    rows = 9 if any(place(int(z))[0] >= 7 for z in present) else 7
    cells = np.ones((rows, 18, 3))
    for number in range(1, 119):
        row, column = place(number)
        if row >= rows:
            continue
        here = number in present
        cells[row, column] = (color(number) if by == "element" else group_color(group(number))) if here else ABSENT
        ink = "#aaaaaa" if not here else "white" if cells[row, column] @ LUMINANCE < 0.4 else "black"
        ax.text(column, row, chemical_symbols[number], fontsize=5.5, ha="center", va="center", color=ink)
    ax.imshow(cells, aspect="equal", interpolation="nearest")
    ax.set_xticks(np.arange(-0.5, 18), minor=True)
    ax.set_yticks(np.arange(-0.5, rows), minor=True)
    ax.grid(False)
    ax.grid(True, which="minor", color="white", linewidth=1.0)
    ax.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    ax.set_axisbelow(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _draw_numbers(ax: Axes, points: np.ndarray, values: np.ndarray, by: str, dots: dict[str, Any]) -> None:
    (x, y), known = points.T, np.isfinite(values)
    ax.scatter(x[~known], y[~known], color="#cccccc", label="unknown" if (~known).any() else None, **dots)
    if not known.any():
        ax.legend(frameon=False)
        return
    low, high = np.quantile(values[known], [0.01, 0.99])  # one odd point should not take all the colors
    drawn = ax.scatter(x[known], y[known], c=values[known], cmap="viridis", vmin=low, vmax=high, **dots)
    name = UNITS.get(by, f"distance to {by.partition(':')[2]}, Å" if by.startswith("distance:") else by)
    figure: Any = ax.get_figure(root=True)
    figure.colorbar(drawn, ax=ax, label=name, extend="both", shrink=0.8)
    if not known.all():
        ax.legend(frameon=False)


def _draw_kinds(ax: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, dots: dict[str, Any]) -> None:
    kinds, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = kinds[order[:MOST_KINDS]]
    palette = _palette(len(shown))
    colors = {kind: palette[i] for i, kind in enumerate(shown)}
    ax.scatter(x, y, c=[colors.get(v, (0.8, 0.8, 0.8)) for v in values], **dots)
    for kind in shown:
        ax.scatter([], [], color=[colors[kind]], s=20, label=str(kind) or "none")
    if len(kinds) > len(shown):
        ax.scatter([], [], color=[(0.8, 0.8, 0.8)], s=20, label=f"{len(kinds) - len(shown)} more")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _palette(count: int) -> list[Any]:
    if count <= len(plots.COLORS):
        return plots.colors()[:count]
    return [colorsys.hls_to_rgb(i / count, 0.45 + 0.12 * (i % 2), 0.7) for i in range(count)]
